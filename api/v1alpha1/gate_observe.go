package v1alpha1

import (
	"net/url"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateTracing sends OpenTelemetry spans of sampled requests to a collector: one a request, with a child for each room
// of the corridor where time passes. A collector that is slow or gone costs spans, never a request.
type GateTracing struct {
	// Endpoint is the collector's URL for OTLP over HTTP, such as https://collector:4318; the path defaults to
	// /v1/traces. Plain http:// is allowed to loopback only: a span says who asked for what.
	Endpoint string `json:"endpoint"`
	// CAFile verifies the collector's certificate; default the system's authorities.
	CAFile string `json:"caFile,omitempty"`
	// SamplingRatePerMillion is how many of a million requests are traced. Default 1000, 0–1000000.
	SamplingRatePerMillion *int32 `json:"samplingRatePerMillion,omitempty"`
	// ClientSampling says who decides for a request that carries a W3C traceparent. The client's trace is always
	// continued. "Disabled" (default): the rate alone decides, and a sampled flag is not passed on to the API server
	// either, because every client could set it and make everything traced. "Enabled": the client's flag decides; for a
	// gate whose clients are all trusted.
	ClientSampling Switch `json:"clientSampling,omitempty"`
}

// GateAccessLog writes one JSON line for some of the requests. No token, body or query value that is not known to be
// harmless is ever written. A disk that is slow or full costs lines, never a request.
type GateAccessLog struct {
	// File is where the lines go: an absolute path, or "-" for standard output. The file is made with mode 0600, one
	// that is there is set to it, and it is opened again when it was renamed or on SIGHUP.
	File string `json:"file"`
	// SampleRatio is the share of the requests that are written besides those that always are. Default 0.01, 0–1.
	SampleRatio *float64 `json:"sampleRatio,omitempty"`
	// Always says which requests are written whatever the ratio.
	Always GateAccessLogAlways `json:"always,omitempty"`
	// MaxLinesPerSecond bounds what a storm of errors may write; the rest is counted. Default 500, 1–100000.
	MaxLinesPerSecond int `json:"maxLinesPerSecond,omitempty"`
}

// GateAccessLogAlways says which requests are always in the access log.
type GateAccessLogAlways struct {
	// SlowerThan is how long a request that is no stream must have taken. Default 5s, 1ms–10m.
	SlowerThan *metav1.Duration `json:"slowerThan,omitempty"`
	// Errors are answers of 500 and above, and requests whose client left before the answer: "Enabled" (default) or
	// "Disabled".
	Errors Switch `json:"errors,omitempty"`
	// Rejections are what the gate itself refused: "Enabled" (default) or "Disabled".
	Rejections Switch `json:"rejections,omitempty"`
}

// Stdout is the access log's file name that means standard output.
const Stdout = "-"

func (t *GateTracing) setDefaults() {
	if t.SamplingRatePerMillion == nil {
		rate := int32(1000)
		t.SamplingRatePerMillion = &rate
	}
	if t.ClientSampling == "" {
		t.ClientSampling = Disabled
	}
}

func (l *GateAccessLog) setDefaults() {
	if l.SampleRatio == nil {
		ratio := 0.01
		l.SampleRatio = &ratio
	}
	if l.MaxLinesPerSecond == 0 {
		l.MaxLinesPerSecond = 500
	}
	if l.Always.SlowerThan == nil {
		l.Always.SlowerThan = &metav1.Duration{Duration: 5 * time.Second}
	}
	if l.Always.Errors == "" {
		l.Always.Errors = Enabled
	}
	if l.Always.Rejections == "" {
		l.Always.Rejections = Enabled
	}
}

func (t *GateTracing) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	u, err := url.Parse(t.Endpoint)
	switch {
	case t.Endpoint == "":
		errs = append(errs, field.Required(path.Child("endpoint"), "the collector's URL"))
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		errs = append(errs, field.Invalid(path.Child("endpoint"), redactURL(u), "must be https://host:port, without user or query"))
	case u.Scheme == "http" && !IsLoopback(u.Host) && !IsLoopback(u.Host+":80"):
		errs = append(errs, field.Invalid(path.Child("endpoint"), t.Endpoint, "must be https:// unless the collector is on loopback: a span says who asked for what"))
	case u.Scheme != "https" && u.Scheme != "http":
		errs = append(errs, field.Invalid(path.Child("endpoint"), t.Endpoint, "must be https:// (or http:// to loopback): OTLP over HTTP"))
	case u.Scheme == "http" && t.CAFile != "":
		errs = append(errs, field.Invalid(path.Child("caFile"), t.CAFile, "must be empty for an http:// endpoint: it would verify nothing"))
	}
	if rate := *t.SamplingRatePerMillion; rate < 0 || rate > 1_000_000 {
		errs = append(errs, field.Invalid(path.Child("samplingRatePerMillion"), rate, "must be between 0 and 1000000"))
	}
	return append(errs, validateSwitch(t.ClientSampling, path.Child("clientSampling"))...)
}

// redactURL leaves a password out of an error message.
func redactURL(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}

func (l *GateAccessLog) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case l.File == "":
		errs = append(errs, field.Required(path.Child("file"), `an absolute path, or "-" for standard output`))
	case l.File != Stdout && (!filepath.IsAbs(l.File) || strings.HasSuffix(l.File, "/")):
		errs = append(errs, field.Invalid(path.Child("file"), l.File, `must be an absolute path, or "-" for standard output`))
	}
	if r := *l.SampleRatio; !(r >= 0 && r <= 1) {
		errs = append(errs, field.Invalid(path.Child("sampleRatio"), r, "must be between 0 and 1"))
	}
	if n := l.MaxLinesPerSecond; n < 1 || n > 100_000 {
		errs = append(errs, field.Invalid(path.Child("maxLinesPerSecond"), n, "must be between 1 and 100000"))
	}
	always := path.Child("always")
	if d := l.Always.SlowerThan.Duration; d < time.Millisecond || d > 10*time.Minute {
		errs = append(errs, field.Invalid(always.Child("slowerThan"), d.String(), "must be between 1ms and 10m"))
	}
	errs = append(errs, validateSwitch(l.Always.Errors, always.Child("errors"))...)
	return append(errs, validateSwitch(l.Always.Rejections, always.Child("rejections"))...)
}
