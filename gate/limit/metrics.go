package limit

import (
	"github.com/prometheus/client_golang/prometheus"
)

// reasons is the closed set of the reason label.
var reasons = []Reason{ReasonRate, ReasonConcurrency, ReasonBytes, ReasonDenied, ReasonBlocked, ReasonLockdown, ReasonSqueezed, ReasonBudget}

// metrics names no user and no rule: both are unbounded. `seakeep emergency status` says who.
type metrics struct {
	admitted   prometheus.Counter
	rejections map[Reason]prometheus.Counter
	ended      prometheus.Counter
	shadowed   map[Reason]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, e *Engine) *metrics {
	admitted := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "seakeep_limit_admitted_requests_total",
		Help: "Requests the limits let through.",
	})
	rejected := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_limit_rejected_requests_total",
		Help: "Requests the limits turned away, by why.",
	}, []string{"reason"})
	ended := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "seakeep_limit_ended_requests_total",
		Help: "Open requests that an emergency rule or a squeeze ended.",
	})
	shadowed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_limit_shadow_rejections_total",
		Help: "Requests that rules, budgets and emergency rules in shadow would have turned away, by why.",
	}, []string{"reason"})
	m := &metrics{admitted: admitted, ended: ended, rejections: make(map[Reason]prometheus.Counter, len(reasons)), shadowed: make(map[Reason]prometheus.Counter, len(reasons))}
	for _, reason := range reasons {
		m.rejections[reason] = rejected.WithLabelValues(string(reason))
		m.shadowed[reason] = shadowed.WithLabelValues(string(reason))
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(admitted, rejected, ended, shadowed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "seakeep_limit_open_requests",
			Help: "Requests that were let through and are not finished, watches included.",
		}, func() float64 { return float64(e.open.count()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "seakeep_limit_buckets",
			Help: "Buckets kept over all rules; each takes about 400 bytes.",
		}, func() float64 { buckets, _ := e.tableSizes(); return float64(buckets) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "seakeep_limit_emergency_rules",
			Help: "Emergency rules in force.",
		}, func() float64 { return float64(e.emergency.Load().inForce(e.clock())) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "seakeep_limit_overflow_requests",
			Help: "Requests of the rules in force that shared an overflow bucket because their rule's table was full.",
		}, func() float64 { _, shared := e.tableSizes(); return float64(shared) }),
	)
	return m
}

func (e *Engine) tableSizes() (buckets int, shared uint64) {
	for _, r := range e.rules.Load().rules {
		if r.table != nil {
			n, s := r.table.size()
			buckets, shared = buckets+n, shared+s
		}
	}
	return buckets, shared
}
