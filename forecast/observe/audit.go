package observe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// AuditOptions say what of an audit log is the component's, and how it is cut into samples.
type AuditOptions struct {
	// User is the component's, system:serviceaccount:namespace:name; Agents are globs over user agents, none: all.
	User   string
	Agents []string
	// Cluster is the cluster's name and Nodes its size; Objects of what the component reads, 0 when not known.
	Cluster        string
	Nodes, Objects int
	// Window is the length of one sample, default 1m.
	Window time.Duration
}

// auditEvent is the part of an audit.k8s.io/v1 Event that says who, from which node, and how long.
type auditEvent struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Stage      string `json:"stage"`
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	User       struct {
		Username string              `json:"username"`
		Extra    map[string][]string `json:"extra"`
	} `json:"user"`
	SourceIPs      []string `json:"sourceIPs"`
	UserAgent      string   `json:"userAgent"`
	ResponseStatus *struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Received time.Time `json:"requestReceivedTimestamp"`
	Staged   time.Time `json:"stageTimestamp"`
}

// The keys of a ServiceAccount token's claims, since Kubernetes 1.30.
const (
	nodeClaim = "authentication.kubernetes.io/node-name"
	podClaim  = "authentication.kubernetes.io/pod-name"
)

// Request is one request of the component's: what a trace of it holds.
type Request struct {
	// Start is when it was received, Took how long the answer took; a watch is counted and takes nothing.
	Start time.Time
	Took  time.Duration
	// From is the node it came from, by its token's claims, else by its address.
	From string
	// Like is what it asked for: requests of one like take the same when none waits.
	Like string
	Code int
	// Seats is how many it held, 1 when that is not known.
	Seats float64
	Bytes float64
}

// AuditLog is what of an audit log is one component's.
type AuditLog struct {
	options AuditOptions
	// Requests are the component's, in no order.
	Requests []Request
	// First and Last bound the time the log tells of, by any client's events.
	First, Last time.Time
	// Lines were read, Malformed passed over.
	Lines, Malformed int
	others, refused  int
}

// maxAuditLine bounds one line: at level RequestResponse an event carries two objects.
const maxAuditLine = 16 << 20

// NewAuditLog returns an empty one.
func NewAuditLog(o AuditOptions) (*AuditLog, error) {
	if o.Window == 0 {
		o.Window = time.Minute
	}
	switch {
	case o.User == "" || o.Cluster == "":
		return nil, errors.New("reading an audit log: user and cluster must not be empty")
	case o.Window < MinWindow:
		return nil, fmt.Errorf("reading an audit log: a window must be ≥ %s, got %s", MinWindow, o.Window)
	case o.Nodes < 1:
		return nil, fmt.Errorf("reading an audit log: it does not say how many nodes the cluster has: nodes must be ≥ 1, got %d", o.Nodes)
	}
	return &AuditLog{options: o}, nil
}

// Read adds one file of JSON lines, gzip or plain. Lines it cannot use are counted, not an error: what is left of a log after
// an outage is rarely whole.
func (a *AuditLog) Read(name string, r io.Reader) error {
	buffered := bufio.NewReaderSize(r, 256<<10)
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("reading audit log %s: %w", name, err)
		}
		buffered = bufio.NewReaderSize(unzipped, 256<<10)
	}
	lines := bufio.NewScanner(buffered)
	lines.Buffer(make([]byte, 0, 256<<10), maxAuditLine)
	for lines.Scan() {
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			a.Lines++
			a.add(line)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // the end of one that is still written
		return fmt.Errorf("reading audit log %s after line %d: %w", name, a.Lines, err)
	}
	return nil
}

func (a *AuditLog) add(line []byte) {
	var e auditEvent
	if json.Unmarshal(line, &e) != nil || e.Kind != "Event" || !strings.HasPrefix(e.APIVersion, "audit.k8s.io/") || e.Received.IsZero() || e.Staged.IsZero() {
		a.Malformed++
		return
	}
	// A watch is counted when it is answered: it ends, and is complete, minutes later.
	stream := e.Verb == "watch"
	switch e.Stage {
	case "ResponseComplete":
		if stream {
			return
		}
	case "ResponseStarted":
		if !stream {
			return
		}
	default:
		return
	}
	if a.First.IsZero() || e.Received.Before(a.First) {
		a.First = e.Received
	}
	if e.Staged.After(a.Last) {
		a.Last = e.Staged
	}
	path, _, _ := strings.Cut(e.RequestURI, "?")
	request := Request{Start: e.Received, From: e.from(), Like: e.Verb + " " + path, Seats: 1}
	if e.ResponseStatus != nil {
		request.Code = e.ResponseStatus.Code
	}
	if !stream {
		request.Took = max(0, e.Staged.Sub(e.Received))
	}
	if gates := (Gates{Agents: a.options.Agents}); e.User.Username != a.options.User || !gates.claims(e.UserAgent) {
		a.others++
		if request.Code == 429 {
			a.refused++
		}
		return
	}
	a.Requests = append(a.Requests, request)
}

// from is the node a request came from.
func (e *auditEvent) from() string {
	for _, claim := range []string{nodeClaim, podClaim} {
		if values := e.User.Extra[claim]; len(values) == 1 && values[0] != "" {
			return values[0]
		}
	}
	if len(e.SourceIPs) > 0 {
		return e.SourceIPs[0]
	}
	return ""
}

// Samples cuts the log into windows. A node is exposed from its first request to its last, so that steps show by themselves.
func (a *AuditLog) Samples() ([]forecast.Sample, error) {
	if len(a.Requests) == 0 {
		return nil, fmt.Errorf("the audit log has no request of %s in %d lines, %d of them malformed", a.options.User, a.Lines, a.Malformed)
	}
	return Trace{Cluster: a.options.Cluster, Nodes: a.options.Nodes, Objects: a.options.Objects, Requests: a.Requests, First: a.First, Last: a.Last,
		Disturbed: a.refused > 0 && float64(a.refused) > busyElse*float64(a.others)}.Samples(a.options.Window)
}

// Trace is a component's requests over a time, each with its node.
type Trace struct {
	Cluster        string
	Nodes, Objects int
	Requests       []Request
	// First and Last bound the time the trace tells of.
	First, Last time.Time
	// Disturbed says that many others were refused in this time.
	Disturbed bool
}

// Samples cuts a trace into windows of a length. The first and last window a node is seen in are not its steady state: in the
// first it starts, in the last it has gone, unless the trace ends there.
func (t Trace) Samples(window time.Duration) ([]forecast.Sample, error) {
	count := int(t.Last.Sub(t.First) / window)
	if count < 1 {
		return nil, fmt.Errorf("the requests are of %s, less than a window of %s", t.Last.Sub(t.First), window)
	}
	at := func(when time.Time) int { return int(when.Sub(t.First) / window) }
	first, last := map[string]int{}, map[string]int{}
	requests := slices.Clone(t.Requests)
	slices.SortStableFunc(requests, func(a, b Request) int { return a.Start.Compare(b.Start) })
	for _, r := range requests {
		if _, seen := first[r.From]; !seen {
			first[r.From] = at(r.Start)
		}
		last[r.From] = at(r.Start)
	}
	// A node that asks once an hour is not gone because the log ends: only who was silent for thrice its longest pause is.
	pause := longestPauses(requests)
	for node := range last {
		if end := t.First.Add(time.Duration(last[node]+1) * window); t.Last.Sub(end) < 3*max(pause[node], window) {
			last[node] = count
		}
	}
	sized := slices.ContainsFunc(requests, func(r Request) bool { return r.Bytes > 0 })
	samples := make([]forecast.Sample, count)
	for i := range samples {
		from := t.First.Add(time.Duration(i) * window)
		s := forecast.Sample{
			Cluster: t.Cluster, Nodes: t.Nodes, Objects: t.Objects, From: from, To: from.Add(window),
			Cost: map[forecast.Kind]float64{forecast.Seats: 0, forecast.Requests: 0},
		}
		if sized {
			s.Cost[forecast.Bytes] = 0
		}
		if t.Disturbed {
			s.Censored = forecast.ByOthers
		}
		samples[i] = s
	}
	leaves := make([]bool, count)
	for _, node := range slices.Sorted(maps.Keys(first)) {
		for i := first[node]; i <= min(last[node], count-1); i++ {
			samples[i].Exposed++
		}
		if i := first[node]; i < count && t.First.Add(time.Duration(i)*window).After(t.First) {
			samples[i].Startup, samples[i].Started = true, samples[i].Started+1
		}
		if i := last[node]; i < count {
			leaves[i] = true
		}
	}
	t.charge(samples, requests, window)
	AddService(samples, requests)
	kept := samples[:0]
	for i, s := range samples {
		if leaves[i] {
			continue
		}
		s.Exposed = min(s.Exposed, s.Nodes)
		kept = append(kept, s)
	}
	return kept, nil
}

// charge adds each request's cost to the windows it executed in.
func (t Trace) charge(samples []forecast.Sample, requests []Request, window time.Duration) {
	seconds := window.Seconds()
	for _, r := range requests {
		i := int(r.Start.Sub(t.First) / window)
		if i < 0 || i >= len(samples) {
			continue
		}
		samples[i].Cost[forecast.Requests] += 1 / seconds
		if r.Bytes > 0 {
			samples[i].Cost[forecast.Bytes] += r.Bytes / seconds
		}
		if r.Code == 429 && samples[i].Censored == forecast.Whole {
			samples[i].Censored = forecast.ByItself
		}
		for left, from := r.Took, r.Start; left > 0 && i < len(samples); i++ {
			part := min(left, samples[i].To.Sub(from))
			samples[i].Cost[forecast.Seats] += r.Seats * part.Seconds() / seconds
			left, from = left-part, samples[i].To
		}
	}
}

// longestPauses is the longest time between two requests of each node.
func longestPauses(sorted []Request) map[string]time.Duration {
	pause, before := map[string]time.Duration{}, map[string]time.Time{}
	for _, r := range sorted {
		if then, ok := before[r.From]; ok {
			pause[r.From] = max(pause[r.From], r.Start.Sub(then))
		}
		before[r.From] = r.Start
	}
	return pause
}
