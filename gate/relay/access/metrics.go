package access

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// kind is what is asked.
type kind string

const (
	kindToken    kind = "token"    // whose a bearer token is (TokenReview)
	kindAccess   kind = "access"   // whether somebody may (SubjectAccessReview)
	kindServices kind = "services" // who serves which API group (LIST of APIServices)
)

// What came of it. Spared: the API server was not asked.
const (
	resultYes    = "yes"
	resultNo     = "no"
	resultFailed = "failed"
	resultSpared = "spared"
)

var results = map[kind][]string{
	kindToken:    {resultYes, resultNo, resultFailed, resultSpared},
	kindAccess:   {resultYes, resultNo, resultFailed, resultSpared},
	kindServices: {resultYes, resultFailed, resultSpared},
}

// metrics name no user, resource or namespace: those are unbounded.
type metrics struct {
	reviews  *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_reviews_total",
			Help: "What the API server was asked about callers of shared answers and not only remembered, by kind (token, access, services) and result: yes, no, failed (it did not answer), spared (it was not asked, because its last answers failed or too many questions were waiting).",
		}, []string{"kind", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "seakeep_gate_relay_review_duration_seconds",
			Help: "How long the API server took to answer a question about a caller, by kind.",
			// From what a review takes on an idle API server to the longest that is waited.
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3},
		}, []string{"kind"}),
	}
	for k, all := range results {
		m.duration.WithLabelValues(string(k))
		for _, result := range all {
			m.reviews.WithLabelValues(string(k), result)
		}
	}
	if registerer != nil {
		registerer.MustRegister(m.reviews, m.duration)
	}
	return m
}

func (m *metrics) count(k kind, result string) { m.reviews.WithLabelValues(string(k), result).Inc() }

func (m *metrics) observe(k kind, result string, took time.Duration) {
	m.count(k, result)
	m.duration.WithLabelValues(string(k)).Observe(took.Seconds())
}
