package signals

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// The counters of who asked what.
const (
	selfRequestTotal   = "apiserver_selfrequest_total"
	longRunningOpen    = "apiserver_longrunning_requests"
	maxRequestKinds    = 1 << 16
	maxRequestKindName = 253
)

// RequestKind is what API servers count requests by. Version, scope and dry run are left out.
type RequestKind struct {
	// Verb is the API server's: GET, LIST, WATCH, POST, PUT, PATCH, APPLY, DELETE, DELETECOLLECTION, CONNECT.
	Verb, Group, Resource string
	// Subresource is the path when there is no resource: "/readyz".
	Subresource string
}

// Requests is one reading of what one API server has answered.
type Requests struct {
	// Read is when the reading was taken, on the reader's clock; Started the process's start, zero when it does not say.
	Read, Started time.Time
	// Answered counts requests finished; a stream is counted when it ends. Requests that were refused for who sent them
	// (401, 403) are not in it: the API server counts behind those two checks.
	Answered map[RequestKind]float64
	// Self is the part of Answered that the API server sent itself, over its loopback; nil when it does not say.
	Self map[RequestKind]float64
	// Open are streams open now, the API server's own among them.
	Open map[RequestKind]float64
}

// ReadRequests reads an API server's /metrics in the Prometheus text format.
func ReadRequests(r io.Reader, now time.Time) (Requests, error) {
	families, err := parse(r, requestTotal, selfRequestTotal, longRunningOpen, startSeconds)
	if err != nil {
		return Requests{}, err
	}
	if len(families[requestTotal].GetMetric()) == 0 {
		return Requests{}, &MissingError{Metric: requestTotal}
	}
	reading := Requests{Read: now, Started: startOf(families)}
	for name, into := range map[string]*map[RequestKind]float64{
		requestTotal: &reading.Answered, selfRequestTotal: &reading.Self, longRunningOpen: &reading.Open,
	} {
		if *into, err = byKind(families[name]); err != nil {
			return Requests{}, err
		}
	}
	return reading, nil
}

// RequestChange is what happened between two readings of the same API server.
type RequestChange struct {
	Seconds float64
	// Answered and Self are as in Requests.
	Answered, Self map[RequestKind]float64
	// Restarted is true when the process was another one at the earlier reading; what the dead one did is lost.
	Restarted bool
}

// Since returns what happened between an earlier reading and this one.
func (r Requests) Since(earlier Requests) RequestChange {
	c := RequestChange{Seconds: r.Read.Sub(earlier.Read).Seconds()}
	c.Restarted = math.Abs(r.Started.Sub(earlier.Started).Seconds()) > 1
	if c.Restarted {
		earlier = Requests{}
	}
	c.Answered = grown(earlier.Answered, r.Answered)
	if r.Self != nil {
		c.Self = grown(earlier.Self, r.Self)
	}
	return c
}

// grown is what was added; a counter never shrinks in one process.
func grown(before, after map[RequestKind]float64) map[RequestKind]float64 {
	added := map[RequestKind]float64{}
	for kind, n := range after {
		if d := n - before[kind]; d > 0 {
			added[kind] = d
		}
	}
	return added
}

// parse keeps the lines of the named families and parses them.
func parse(r io.Reader, names ...string) (map[string]*dto.MetricFamily, error) {
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	text, err := pick(r, wanted)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	return families, nil
}

func startOf(families map[string]*dto.MetricFamily) time.Time {
	if started := sum(families[startSeconds], nil); started > 0 && started < math.MaxInt32 {
		return time.Unix(0, int64(started*float64(time.Second)))
	}
	return time.Time{}
}

func byKind(family *dto.MetricFamily) (map[RequestKind]float64, error) {
	if family == nil {
		return nil, nil
	}
	counts := map[RequestKind]float64{}
	for _, m := range family.GetMetric() {
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		if !(v > 0 && v < 1<<53) { // NaN too
			continue
		}
		var kind RequestKind
		for _, l := range m.GetLabel() {
			if len(l.GetValue()) > maxRequestKindName {
				return nil, fmt.Errorf("reading metrics: a label of %s is longer than %d bytes", family.GetName(), maxRequestKindName)
			}
			switch l.GetName() {
			case "verb":
				kind.Verb = strings.Clone(l.GetValue())
			case "group":
				kind.Group = strings.Clone(l.GetValue())
			case "resource":
				kind.Resource = strings.Clone(l.GetValue())
			case "subresource":
				kind.Subresource = strings.Clone(l.GetValue())
			}
		}
		counts[kind] += v
		if len(counts) > maxRequestKinds {
			return nil, fmt.Errorf("reading metrics: %s has more than %d kinds of request", family.GetName(), maxRequestKinds)
		}
	}
	return counts, nil
}
