package breakglass

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The closed sets of label values.
const (
	certificateServing    = "serving"
	certificateClientCA   = "client-ca"
	certificateFrontProxy = "front-proxy"

	closedFull     = "full"     // every place was taken by an engineer
	closedStranger = "stranger" // gave way before it authenticated

	refusedHandshake   = "handshake"   // no certificate of the break-glass CA
	refusedCertificate = "certificate" // denied or expired since
	refusedRequest     = "request"     // a path or a header the lane does not pass on

	squeezeAcknowledged = "acknowledged"
	squeezeUnreachable  = "unreachable"
	squeezeRejected     = "rejected"
)

type metrics struct {
	requests          *prometheus.CounterVec
	headerSeconds     prometheus.Histogram
	refused           *prometheus.CounterVec
	connections       prometheus.Gauge
	connectionsClosed *prometheus.CounterVec
	squeezes          *prometheus.CounterVec
	auditLost         prometheus.Counter
	auditFailing      prometheus.Gauge
	reloadFailures    prometheus.Counter
	certificateExpiry *prometheus.GaugeVec
	upstreamUp        *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	with := promauto.With(registerer)
	return &metrics{
		requests: with.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_breakglass_requests_total",
			Help: "Requests answered through the break-glass lane, by verb and class of the status code.",
		}, []string{"verb", "code"}),
		headerSeconds: with.NewHistogram(prometheus.HistogramOpts{
			Name: "seakeep_breakglass_header_seconds",
			Help: "Time from a request's arrival to the first byte of its answer.",
			// Around 250 ms, what an engineer is promised, and 10 s, when he gives up.
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10},
		}),
		refused: with.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_breakglass_refused_total",
			Help: "Connections and requests the lane refused itself.",
		}, []string{"reason"}),
		connections: with.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_breakglass_connections",
			Help: "Open connections to the lane.",
		}),
		connectionsClosed: with.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_breakglass_connections_closed_total",
			Help: "Connections closed because every place was taken.",
		}, []string{"reason"}),
		squeezes: with.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_breakglass_squeezes_total",
			Help: "Calls to standard gates to make way, by what came of them.",
		}, []string{"result"}),
		auditLost: with.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_breakglass_audit_events_lost_total",
			Help: "Audit events that are on standard error and not in the audit file.",
		}),
		auditFailing: with.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_breakglass_audit_failing_ratio",
			Help: "1 while the audit file cannot be written.",
		}),
		reloadFailures: with.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_breakglass_reload_failures_total",
			Help: "Readings of changed certificate files that were refused; the last good ones stay in force.",
		}),
		certificateExpiry: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_breakglass_certificate_expiry_timestamp_seconds",
			Help: "When the certificates the lane depends on expire.",
		}, []string{"certificate"}),
		upstreamUp: with.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_breakglass_upstream_up_ratio",
			Help: "1 when the API server answered the last probe on the lane's own connection.",
		}, []string{"upstream"}),
	}
}

// verbLabel keeps the verb's label a closed set: a non-resource request's verb is any HTTP method.
func verbLabel(verb string) string {
	switch verb {
	case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy":
		return verb
	default:
		return "other"
	}
}

func codeLabel(code int) string {
	if code < 100 || code > 599 {
		return "none"
	}
	return strconv.Itoa(code/100) + "xx"
}
