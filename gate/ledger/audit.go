package ledger

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// maxAuditLine bounds one line: at level RequestResponse an event carries two objects of up to 3 MiB each.
const maxAuditLine = 16 << 20

// Dimension is what an audit file is ranked by: a whole client, or one part of it with the others added up.
type Dimension string

// The dimensions.
const (
	ByClient    Dimension = "client"
	ByUser      Dimension = "user"
	ByUserAgent Dimension = "useragent"
	ByVerb      Dimension = "verb"
	ByResource  Dimension = "resource"
)

// ParseDimension refuses an unknown dimension.
func ParseDimension(s string) (Dimension, error) {
	all := []Dimension{ByClient, ByUser, ByUserAgent, ByVerb, ByResource}
	if slices.Contains(all, Dimension(s)) {
		return Dimension(s), nil
	}
	return "", fmt.Errorf("dimension must be one of client, user, useragent, verb, resource, got %q", s)
}

// AuditOptions are what NewAudit needs; the zero value is good.
type AuditOptions struct {
	// By defaults to ByClient.
	By Dimension
	// MaxClients is the number of entries kept; default 16384.
	MaxClients int
	// Progress, when set, is called after every 64 MiB read, with the bytes and events of the file so far.
	Progress func(name string, bytes, events int64)
}

// Audit ranks the clients in a cluster's audit log. Seat-seconds are approximated by the time between the events'
// requestReceivedTimestamp and stageTimestamp, one seat each: a lower bound for a LIST, which may take ten. What a
// response weighed is not in the log. It is not safe for concurrent use.
type Audit struct {
	opts     AuditOptions
	requests *Ledger
	streams  *Ledger
	agents   *agentCache
	now      time.Time // when the event being read ended: the ledgers' clock
	latest   time.Time
	report   AuditReport
}

// AuditReport is what the log says.
type AuditReport struct {
	// Requests ranks requests by cost.
	Requests Snapshot `json:"requests"`
	// Streams ranks watches and other streams by number. Their seat-seconds are 0, because the log does not tell
	// initial events from idle life; upstreamSeconds is how long they were open.
	Streams Snapshot `json:"streams"`
	// By is the dimension; the other parts of each key are empty.
	By Dimension `json:"by"`
	// Lines were read; Counted became part of the ranking; OtherStages are not ResponseComplete, which would count
	// a request twice; Malformed and TooLong lines were passed over.
	Lines       int64 `json:"lines"`
	Counted     int64 `json:"counted"`
	OtherStages int64 `json:"otherStages"`
	Malformed   int64 `json:"malformed"`
	TooLong     int64 `json:"tooLong"`
	// FirstMalformed says where and why, "" when there was none.
	FirstMalformed string `json:"firstMalformed,omitempty"`
	// Truncated names files whose compression ended early, as that of a log still being written does.
	Truncated []string `json:"truncated,omitempty"`
}

// NewAudit returns an empty ranking.
func NewAudit(opts AuditOptions) *Audit {
	if opts.By == "" {
		opts.By = ByClient
	}
	if opts.MaxClients <= 0 {
		opts.MaxClients = 16384
	}
	a := &Audit{opts: opts, agents: newAgentCache()}
	clock := func() time.Time { return a.now }
	a.requests = New(Options{MaxClients: opts.MaxClients, Clock: clock, WholeRun: true})
	a.streams = New(Options{MaxClients: opts.MaxClients, Clock: clock, WholeRun: true})
	return a
}

// Read adds one file of JSON lines, gzip or plain. Lines it cannot use are counted, not an error: what is left of a log
// after an outage is rarely whole.
func (a *Audit) Read(name string, r io.Reader) error {
	counted := &countingReader{r: r}
	buffered := bufio.NewReaderSize(counted, 256<<10)
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("reading audit log %s: %w", name, err)
		}
		buffered = bufio.NewReaderSize(unzipped, 256<<10)
	}
	var line []byte
	var number, next int64 = 0, 64 << 20
	for {
		var err error
		var long bool
		line, long, err = readLine(buffered, line[:0])
		if len(line) > 0 || long {
			number++
			a.report.Lines++
			a.addLine(name, number, line, long)
		}
		if a.opts.Progress != nil && counted.n >= next {
			next = counted.n + 64<<20
			a.opts.Progress(name, counted.n, number)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			a.report.Truncated = append(a.report.Truncated, name)
			return nil
		case err != nil:
			return fmt.Errorf("reading audit log %s after line %d: %w", name, number, err)
		}
	}
}

// readLine appends one line to buf, without its end. A line over the limit is read to its end and dropped.
func readLine(r *bufio.Reader, buf []byte) (line []byte, tooLong bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if !tooLong && len(buf)+len(part) > maxAuditLine {
			tooLong = true
			buf = buf[:0]
		}
		if !tooLong {
			buf = append(buf, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimSpace(buf), tooLong, err
	}
}

// auditEvent is the part of audit.k8s.io/v1 Event that says who, what and how long.
type auditEvent struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ImpersonatedUser *struct {
		Username string `json:"username"`
	} `json:"impersonatedUser"`
	SourceIPs []string `json:"sourceIPs"`
	UserAgent string   `json:"userAgent"`
	ObjectRef *struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	ResponseStatus *struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Received time.Time `json:"requestReceivedTimestamp"`
	Staged   time.Time `json:"stageTimestamp"`
}

var errNotEvent = errors.New("not an audit.k8s.io event with its timestamps")

// parseAuditEvent is the parser of what others wrote; used is false for an event of another stage.
func parseAuditEvent(line []byte) (event auditEvent, used bool, err error) {
	if err := json.Unmarshal(line, &event); err != nil {
		return auditEvent{}, false, err
	}
	if event.Kind != "Event" || !strings.HasPrefix(event.APIVersion, "audit.k8s.io/") {
		return auditEvent{}, false, errNotEvent
	}
	if event.Stage != "ResponseComplete" {
		return auditEvent{}, false, nil
	}
	if event.Received.IsZero() || event.Staged.IsZero() {
		return auditEvent{}, false, errNotEvent
	}
	return event, true, nil
}

func (a *Audit) addLine(name string, number int64, line []byte, long bool) {
	if long {
		a.report.TooLong++
		return
	}
	event, used, err := parseAuditEvent(line)
	switch {
	case err != nil:
		if a.report.Malformed++; a.report.FirstMalformed == "" {
			a.report.FirstMalformed = fmt.Sprintf("%s:%d: %v", name, number, err)
		}
	case !used:
		a.report.OtherStages++
	default:
		a.report.Counted++
		a.add(&event)
	}
}

func (a *Audit) add(e *auditEvent) {
	took := max(0, e.Staged.Sub(e.Received))
	outcome := Outcome{Upstream: took, SeatSeconds: took.Seconds()}
	if e.ResponseStatus != nil {
		outcome.Code = e.ResponseStatus.Code
	}
	if outcome.Code == 429 {
		outcome.RejectedBy = RejectedUpstream
	}
	source := netip.Addr{}
	if len(e.SourceIPs) > 0 {
		source, _ = netip.ParseAddr(e.SourceIPs[0])
	}
	into := a.requests
	if e.isStream() {
		into = a.streams
		outcome.SeatSeconds = 0
	}
	a.now = e.Staged
	if a.latest.Before(a.now) {
		a.latest = a.now // several files may be given in any order
	}
	if into.started.IsZero() || e.Received.Before(into.started) {
		into.started = e.Received
	}
	into.addKey(a.keyOf(e), source, &outcome, step{begun: true, ended: true})
}

func (a *Audit) keyOf(e *auditEvent) Key {
	var key Key
	by := a.opts.By
	if by == ByClient || by == ByUser {
		key.User = e.User.Username
		if e.ImpersonatedUser != nil && e.ImpersonatedUser.Username != "" {
			key.User = e.ImpersonatedUser.Username // whom priority and fairness charges
		}
		key.User = bound(key.User, maxUser)
	}
	if by == ByClient || by == ByUserAgent {
		key.UserAgent = a.agents.normalise(e.UserAgent)
	}
	if by == ByClient || by == ByVerb {
		key.Verb = bound(e.Verb, maxVerb)
	}
	if by == ByClient || by == ByResource {
		key.Resource = bound(e.resourcePath(), maxResource)
	}
	return key
}

// resourcePath is what flow.Request.ResourcePath is for a live request.
func (e *auditEvent) resourcePath() string {
	if ref := e.ObjectRef; ref != nil && ref.Resource != "" {
		if ref.Subresource != "" {
			return ref.Resource + "/" + ref.Subresource
		}
		return ref.Resource
	}
	path, _, _ := strings.Cut(e.RequestURI, "?")
	segment, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return "/" + segment
}

func (e *auditEvent) isStream() bool {
	if e.Verb == "watch" || e.Verb == "proxy" || e.Verb == "connect" {
		return true
	}
	if e.ObjectRef == nil {
		return false
	}
	switch e.ObjectRef.Subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		_, query, _ := strings.Cut(e.RequestURI, "?")
		return slices.ContainsFunc(strings.Split(query, "&"), func(p string) bool { return p == "follow=true" || p == "follow=1" })
	}
	return false
}

// Report ranks what was read so far.
func (a *Audit) Report(n int, by Order) AuditReport {
	a.now = a.latest
	report := a.report
	report.By = a.opts.By
	report.Requests = a.requests.Top(n, by)
	if by == BySeats || by == ByBytes {
		by = ByRequests
	}
	report.Streams = a.streams.Top(n, by)
	return report
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
