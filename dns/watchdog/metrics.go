package watchdog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/seakeep/seakeep/dns/watchdog/decision"
)

// Labels of the metrics.
const (
	targetPrimary = "primary"
	targetBackup  = "backup"

	resultGood   = "good"
	resultWrong  = "wrong"
	resultSilent = "silent"

	resultOK     = "ok"
	resultFailed = "failed"
)

type metrics struct {
	engaged  prometheus.Gauge
	rounds   *prometheus.CounterVec
	switches *prometheus.CounterVec
	failed   *prometheus.CounterVec
	lag      prometheus.Gauge
	starts   prometheus.Counter
	reloads  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	m := &metrics{
		engaged: f.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_watchdog_backup_active", Help: "1 while clients are sent to the backup.",
		}),
		rounds: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_watchdog_rounds_total", Help: "Rounds of questions, by server and result.",
		}, []string{"target", "result"}),
		switches: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_watchdog_switches_total", Help: "Switches to the backup and back, by reason.",
		}, []string{"reason"}),
		failed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_watchdog_switch_errors_total", Help: "Switches that were decided and could not be made, by the server that clients should be at.",
		}, []string{"target"}),
		lag: f.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_watchdog_backup_age_seconds", Help: "Time since the backup's data was last known to be current; 0 when it does not say.",
		}),
		starts: f.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_dns_watchdog_unbound_starts_total", Help: "Starts of the unbound that the watchdog runs.",
		}),
		reloads: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_watchdog_reloads_total", Help: "Times the backup was told of a new zone file, by result.",
		}, []string{"result"}),
	}
	for _, target := range []string{targetPrimary, targetBackup} {
		m.failed.WithLabelValues(target)
		for _, result := range []string{resultGood, resultWrong, resultSilent} {
			m.rounds.WithLabelValues(target, result)
		}
	}
	for _, reason := range decision.SwitchReasons {
		m.switches.WithLabelValues(string(reason))
	}
	for _, result := range []string{resultOK, resultFailed} {
		m.reloads.WithLabelValues(result)
	}
	return m
}

func (m *metrics) saw(target string, v verdict) {
	result := resultWrong
	switch {
	case v.Good:
		result = resultGood
	case v.Silent:
		result = resultSilent
	}
	m.rounds.WithLabelValues(target, result).Inc()
}

func (m *metrics) aged(confirmed, now time.Time) {
	if confirmed.IsZero() {
		m.lag.Set(0)
		return
	}
	m.lag.Set(max(now.Sub(confirmed), 0).Seconds())
}
