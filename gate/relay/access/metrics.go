package access

import (
	"errors"
	"sync/atomic"
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
	counts   counts
}

// counts are those of Status.
type counts struct {
	tokenReviews, tokensKnown, accessReviews, accessKnown, errors atomic.Int64
}

// Status counts the reviews the API server was asked for, and the questions that needed none.
type Status struct {
	TokenReviews  int64 `json:"tokenReviews"`
	TokensKnown   int64 `json:"tokensKnown"`
	AccessReviews int64 `json:"accessReviews"`
	AccessKnown   int64 `json:"accessKnown"`
	// Errors are reviews that could not be had.
	Errors int64 `json:"errors"`
}

// Status counts since New.
func (a *Access) Status() Status {
	c := &a.metrics.counts
	return Status{
		TokenReviews: c.tokenReviews.Load(), TokensKnown: max(0, c.tokensKnown.Load()-c.tokenReviews.Load()),
		AccessReviews: c.accessReviews.Load(), AccessKnown: c.accessKnown.Load(), Errors: c.errors.Load(),
	}
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		reviews: registered(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_reviews_total",
			Help: "What the API server was asked about callers of shared answers and not only remembered, by kind (token, access, services) and result: yes, no, failed (it did not answer), spared (it was not asked, because its last answers failed or too many questions were waiting).",
		}, []string{"kind", "result"})),
		duration: registered(registerer, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "seakeep_gate_relay_review_duration_seconds",
			Help: "How long the API server took to answer a question about a caller, by kind.",
			// From what a review takes on an idle API server to the longest that is waited.
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 3},
		}, []string{"kind"})),
	}
	for k, all := range results {
		m.duration.WithLabelValues(string(k))
		for _, result := range all {
			m.reviews.WithLabelValues(string(k), result)
		}
	}
	return m
}

// registered registers a collector, or returns the one that an earlier configuration registered.
func registered[C prometheus.Collector](registerer prometheus.Registerer, c C) C {
	if registerer == nil {
		return c
	}
	err := registerer.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return c
}

func (m *metrics) count(k kind, result string) {
	m.reviews.WithLabelValues(string(k), result).Inc()
	switch {
	case k == kindServices:
	case result == resultSpared || result == resultFailed:
		m.counts.errors.Add(1)
	case k == kindToken:
		m.counts.tokenReviews.Add(1)
	default:
		m.counts.accessReviews.Add(1)
	}
}

func (m *metrics) observe(k kind, result string, took time.Duration) {
	m.count(k, result)
	m.duration.WithLabelValues(string(k)).Observe(took.Seconds())
}
