package ledger

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons why the gate refused a request: the closed set of Outcome.RejectedBy and of the label reason.
const (
	// RejectedLimit: a configured or shipped limit rule.
	RejectedLimit = "limit"
	// RejectedEmergency: an emergency rule.
	RejectedEmergency = "emergency"
	// RejectedIdentity: a credential the gate does not let through.
	RejectedIdentity = "identity"
	// RejectedOverload: the gate's own queue or memory was full.
	RejectedOverload = "overload"
	// RejectedUpstream: no API server could be reached.
	RejectedUpstream = "upstream"
	// RejectedRequest: a request that cannot be parsed.
	RejectedRequest = "request"
)

const other = "other"

var reasons = map[string]string{
	RejectedLimit: RejectedLimit, RejectedEmergency: RejectedEmergency, RejectedIdentity: RejectedIdentity,
	RejectedOverload: RejectedOverload, RejectedUpstream: RejectedUpstream, RejectedRequest: RejectedRequest,
}

// verbs is the closed set of the label verb; whatever else a client invents is "other".
var verbs = map[string]bool{
	"get": true, "list": true, "watch": true, "create": true, "update": true, "patch": true,
	"delete": true, "deletecollection": true, "proxy": true, "post": true, "put": true, "head": true, "options": true,
}

// metrics are resolved once: looking a label up on each request would cost more than the ledger itself.
type metrics struct {
	perVerb  map[string]*verbMetrics
	rejected map[string]prometheus.Counter
	received prometheus.Counter
	sent     prometheus.Counter
	inFlight prometheus.Gauge
	streams  prometheus.Gauge
}

type verbMetrics struct {
	requests [codeClasses]prometheus.Counter
	seats    prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_requests_total",
		Help: "Requests answered, by verb and class of status code; 429 is a class of its own, \"none\" got no answer.",
	}, []string{"verb", "code"})
	seats := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_seat_seconds_total",
		Help: "Cost of requests: seats occupied at the API server times seconds.",
	}, []string{"verb"})
	rejections := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_rejections_total",
		Help: "Requests the gate itself refused, by reason.",
	}, []string{"reason"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_body_bytes_total",
		Help: "Body bytes, direction request or response.",
	}, []string{"direction"})
	m := &metrics{
		perVerb:  map[string]*verbMetrics{},
		rejected: map[string]prometheus.Counter{other: rejections.WithLabelValues(other)},
		received: bytes.WithLabelValues("request"),
		sent:     bytes.WithLabelValues("response"),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_requests_in_flight",
			Help: "Requests being handled, streams included.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_streams_open",
			Help: "Streams (watch, exec, log -f and the like) the API server accepted and that are open.",
		}),
	}
	for reason := range reasons {
		m.rejected[reason] = rejections.WithLabelValues(reason)
	}
	add := func(verb string) {
		v := &verbMetrics{seats: seats.WithLabelValues(verb)}
		for class, name := range classNames {
			v.requests[class] = requests.WithLabelValues(verb, name)
		}
		m.perVerb[verb] = v
	}
	for verb := range verbs {
		add(verb)
	}
	add(other)
	if registerer != nil {
		registerer.MustRegister(requests, seats, rejections, bytes, m.inFlight, m.streams)
	}
	return m
}

func (m *metrics) record(verb string, o *Outcome, st step) {
	v, ok := m.perVerb[verb]
	if !ok {
		v = m.perVerb[other]
	}
	if st.ended {
		v.requests[classOf(o.Code)].Inc()
	}
	if st.ended && o.RejectedBy != "" {
		reason, _, _ := strings.Cut(o.RejectedBy, ":")
		counter, ok := m.rejected[reason]
		if !ok {
			counter = m.rejected[other]
		}
		counter.Inc()
	}
	if o.SeatSeconds > 0 {
		v.seats.Add(o.SeatSeconds)
	}
	if o.RequestBytes > 0 {
		m.received.Add(float64(o.RequestBytes))
	}
	if o.ResponseBytes > 0 {
		m.sent.Add(float64(o.ResponseBytes))
	}
}
