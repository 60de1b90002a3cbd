package peers

import "github.com/prometheus/client_golang/prometheus"

// Why something from another gate was not taken: the reason label.
const (
	refusedMessage   = "message"   // malformed, or too large
	refusedDecision  = "decision"  // a rule or lift no gate may have made, or beyond the bounds
	refusedGate      = "gate"      // more than 64 gates, or a name that is none
	refusedStream    = "stream"    // too many connections at once
	refusedKey       = "key"       // not encrypted with a key of the file
	refusedCongested = "congested" // messages came faster than they could be taken in
)

type metrics struct {
	refused     *prometheus.CounterVec
	sends       *prometheus.CounterVec
	joins       *prometheus.CounterVec
	open, share prometheus.Gauge
	gates       *prometheus.GaugeVec
	clock       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_peers_refused_total",
			Help: "What came from other gates and was not taken: message, decision, gate, stream, key (encrypted with another key), congested.",
		}, []string{"reason"}),
		sends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_peers_messages_sent_total",
			Help: "Messages to other gates, by result (sent, failed); what failed is made up for every few seconds.",
		}, []string{"result"}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_peers_joins_total",
			Help: "Tries to reach a gate of the list that is not among the members, by result (joined, failed).",
		}, []string{"result"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_peers_open_ratio",
			Help: "1 while this gate listens for others, 0 while it cannot.",
		}),
		share: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_peers_budget_share_ratio",
			Help: "The part of every throttle's budget that this gate hands out.",
		}),
		gates: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_peers_gates",
			Help: "Other gates: reachable, and away (not reachable and not forgotten yet).",
		}, []string{"state"}),
		clock: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_peers_clock_offset_seconds",
			Help: "How far the clock of the gate with the most different clock is from this one's.",
		}),
	}
	for _, reason := range []string{refusedMessage, refusedDecision, refusedGate, refusedStream, refusedKey, refusedCongested} {
		m.refused.WithLabelValues(reason)
	}
	for _, result := range []string{"sent", "failed"} {
		m.sends.WithLabelValues(result)
	}
	for _, result := range []string{"joined", "failed"} {
		m.joins.WithLabelValues(result)
	}
	for _, state := range []string{"reachable", "away"} {
		m.gates.WithLabelValues(state)
	}
	if reg != nil {
		reg.MustRegister(m.refused, m.sends, m.joins, m.open, m.share, m.gates, m.clock)
	}
	return m
}
