package recorded

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/limit"
)

// A log is written in the order in which requests end, and limits act when they arrive. So events are held back until none that
// arrived before them can follow: window is more than an API server's --request-timeout. More than maxHeld are not held, and
// what then comes too late is judged when it comes.
const (
	window  = 90 * time.Second
	maxHeld = 500_000
	// maxBegun bounds the streams whose end is still to come.
	maxBegun = 200_000
	// maxClients bounds the clients kept before they are joined by what they call themselves.
	maxClients = 32_768
)

// Options are what Judge needs.
type Options struct {
	// Config has the limits to be judged, whether its shipped ones are on, and the default API budget.
	Config *v1alpha1.GateConfiguration
	// Progress, when set, is called after every 64 MiB read of a source.
	Progress func(name string, bytes, lines int64)
}

// Report is what the limits would have done.
type Report struct {
	// First and Last are the arrivals of the first and the last request that was judged.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Lines were read; Judged became requests; Rejected of them would have been turned away.
	Lines    int64 `json:"lines"`
	Judged   int64 `json:"judged"`
	Rejected int64 `json:"rejected"`
	// Own requests of the API server come through no gate, OtherStages would count a request twice; Malformed and TooLong
	// lines were passed over; Late requests came too late in the log to be judged in their turn.
	Own            int64  `json:"own"`
	OtherStages    int64  `json:"otherStages"`
	Malformed      int64  `json:"malformed"`
	TooLong        int64  `json:"tooLong"`
	Late           int64  `json:"late"`
	FirstMalformed string `json:"firstMalformed,omitempty"`
	// Truncated names files whose compression ends in the middle.
	Truncated []string `json:"truncated,omitempty"`
	// Rules are in the order they are tried. Unjudged says what of them a log cannot tell.
	Rules    []Rule   `json:"rules"`
	Unjudged []string `json:"unjudged,omitempty"`
	// Clients would have been turned away, most often first.
	Clients []v1alpha1.ShadowedClient `json:"clients"`
}

// Rule is what one rule would have done.
type Rule struct {
	Rule     string `json:"rule"`
	Matched  int64  `json:"matched"`
	Rejected int64  `json:"rejected"`
}

// Judge reads the sources together, in the order of their time, and says what the limits would have done. Its memory does not
// grow with the logs.
func Judge(opts Options, sources []Source) (*Report, error) {
	j := &judge{report: &Report{Rules: []Rule{}}, begun: map[string]bool{}}
	j.engine = newEngine(func() time.Time { return j.now })
	if err := j.configure(opts.Config); err != nil {
		return nil, err
	}
	var readers []*reader
	for _, s := range sources {
		l, err := openLines(s, opts.Progress)
		if err != nil {
			return nil, err
		}
		readers = append(readers, &reader{lines: l})
	}
	for {
		var err error
		if readers, err = j.fill(readers); err != nil {
			return nil, err
		}
		if len(readers) == 0 {
			break
		}
		first := slices.MinFunc(readers, func(a, b *reader) int { return a.event.ended.Compare(b.event.ended) })
		j.take(first.event)
		first.event = nil
	}
	j.release(time.Time{})
	return j.finish(), nil
}

func newEngine(clock func() time.Time) *limit.Engine {
	return limit.New(limit.Options{Clock: clock, Rand: func() float64 { return 0 }, Judging: true, MaxShadowed: maxClients})
}

// judge is one reading.
type judge struct {
	engine  *limit.Engine
	now     time.Time
	report  *Report
	held    arrivals
	running endings
	begun   map[string]bool
	newest  time.Time
}

// reader is a source and its next event.
type reader struct {
	lines *lines
	event *event
}

func (j *judge) configure(cfg *v1alpha1.GateConfiguration) error {
	var shipped []v1alpha1.LimitRule
	if cfg.DefaultLimits != v1alpha1.Disabled {
		shipped = limit.Shipped()
	}
	if err := j.engine.Configure(cfg.Limits, shipped); err != nil {
		return err
	}
	for _, r := range slices.Concat(cfg.Limits, shipped) {
		if t := r.Throttle; t != nil && t.BytesPerSecond != nil {
			j.report.Unjudged = append(j.report.Unjudged, "bytesPerSecond of "+r.Name)
		}
	}
	b := cfg.Budgets
	if b == nil || b.Mode == v1alpha1.PolicyDisabled || b.Default == "" {
		return nil
	}
	fallen, err := v1alpha1.ParseAPIBudget(b.Default)
	if err != nil {
		return fmt.Errorf("reading budgets.default: %w", err)
	}
	if cfg.Clamp.Nodes == 0 && fallen.SeatsPerNode > 0 {
		j.report.Unjudged = append(j.report.Unjudged, "seats-per-node of budgets.default (clamp.nodes says for how many)")
		if fallen.SeatsPerNode = 0; fallen.Seats == 0 {
			return nil
		}
	}
	excused := limit.CompileCallers(b.Exempt)
	j.engine.SetBudgets(limit.Budgets{Mode: v1alpha1.PolicyShadow, Default: fallen.On(cfg.Clamp.Nodes), Exempt: func(user string) bool {
		return strings.HasPrefix(user, "system:serviceaccount:kube-system:") || excused.Match(user)
	}})
	return nil
}

// fill gives every reader its next event; one at its end is left out.
func (j *judge) fill(readers []*reader) ([]*reader, error) {
	var left []*reader
	for _, r := range readers {
		for r.event == nil {
			data, tooLong, err := r.lines.next()
			if errors.Is(err, io.ErrUnexpectedEOF) {
				j.report.Truncated = append(j.report.Truncated, r.lines.name)
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			j.report.Lines++
			if tooLong {
				j.report.TooLong++
				continue
			}
			r.event = j.parse(r.lines, data)
		}
		if r.event != nil {
			left = append(left, r)
		}
	}
	return left, nil
}

func (j *judge) parse(l *lines, data []byte) *event {
	e, err := parse(data)
	switch {
	case errors.Is(err, errOtherStage):
		j.report.OtherStages++
	case errors.Is(err, errSelf):
		j.report.Own++
	case err != nil:
		if j.report.Malformed++; j.report.FirstMalformed == "" {
			j.report.FirstMalformed = fmt.Sprintf("%s:%d: %.200v", l.name, l.number, err)
		}
	}
	return e
}

// take holds an event back and judges those whose turn it is.
func (j *judge) take(e *event) {
	if j.begun[e.id] && !e.begun { // the end of a stream that was judged when it began
		delete(j.begun, e.id)
		j.report.OtherStages++
		return
	}
	if e.begun && len(j.begun) < maxBegun {
		j.begun[e.id] = true
	}
	if j.newest.Before(e.ended) {
		j.newest = e.ended
	}
	heap.Push(&j.held, e)
	j.release(j.newest.Add(-window))
}

// release judges what arrived up to a moment, or everything; and more when too much is held.
func (j *judge) release(upTo time.Time) {
	for len(j.held) > 0 && (upTo.IsZero() || !j.held[0].received.After(upTo) || len(j.held) > maxHeld) {
		j.judge(heap.Pop(&j.held).(*event))
	}
}

func (j *judge) judge(e *event) {
	if e.received.Before(j.now) {
		j.report.Late++
	}
	j.advance(e.received)
	j.report.Judged++
	if j.report.First.IsZero() {
		j.report.First = e.received
	}
	j.report.Last = j.now
	pass, _ := j.engine.Admit(e.flow, nil)
	if pass == nil {
		return // an engine that judges turns nobody away
	}
	if e.flow.LongRunning {
		pass.Done() // how long it sent what exists is not in the log
		return
	}
	pass.Seated(1) // what it would weigh in admission is not in the log
	heap.Push(&j.running, ending{pass, j.now.Add(e.ended.Sub(e.received))})
}

// advance ends what ran until a moment, and goes there; time never runs backwards.
func (j *judge) advance(to time.Time) {
	for len(j.running) > 0 && !j.running[0].at.After(to) {
		e := heap.Pop(&j.running).(ending)
		if j.now.Before(e.at) {
			j.now = e.at
		}
		e.pass.Done()
	}
	if j.now.Before(to) {
		j.now = to
	}
}

// finish lets everything end, and adds up.
func (j *judge) finish() *Report {
	last := j.now
	for len(j.running) > 0 {
		j.advance(j.running[0].at)
	}
	j.now = j.now.Add(time.Minute) // who stood in line for a place is decided by then
	r := j.report
	r.Last = last
	rejected := map[string]int64{}
	r.Clients = joined(j.engine.Shadowed())
	for _, c := range r.Clients {
		rejected[c.Rule] += c.Count
		r.Rejected += c.Count
	}
	if n := rejected[limit.BudgetRule]; n > 0 {
		r.Rules = append(r.Rules, Rule{Rule: limit.BudgetRule, Matched: n, Rejected: n})
	}
	for _, m := range j.engine.Matches() {
		r.Rules = append(r.Rules, Rule{Rule: m.Rule, Matched: m.Matched, Rejected: rejected[m.Rule]})
	}
	return r
}

// joined makes one line of what is one program, as `gate top` does.
func joined(list []v1alpha1.ShadowedClient) []v1alpha1.ShadowedClient {
	byKey := map[v1alpha1.ShadowedClient]*v1alpha1.ShadowedClient{}
	for _, c := range list {
		c.UserAgent = ledger.NormaliseAgent(c.UserAgent)
		key := v1alpha1.ShadowedClient{Rule: c.Rule, Reason: c.Reason, Emergency: c.Emergency, User: c.User, UserAgent: c.UserAgent}
		into := byKey[key]
		if into == nil {
			byKey[key] = &c
			continue
		}
		into.Count += c.Count
		if c.First.Before(&into.First) {
			into.First = c.First
		}
		if into.Last.Before(&c.Last) {
			into.Last = c.Last
		}
	}
	clients := make([]v1alpha1.ShadowedClient, 0, len(byKey))
	for _, c := range byKey {
		clients = append(clients, *c)
	}
	slices.SortFunc(clients, func(a, b v1alpha1.ShadowedClient) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.User, b.User), cmp.Compare(a.UserAgent, b.UserAgent), cmp.Compare(a.Reason, b.Reason))
	})
	return clients
}

// arrivals are events by when they arrived.
type arrivals []*event

func (a arrivals) Len() int           { return len(a) }
func (a arrivals) Less(i, k int) bool { return a[i].received.Before(a[k].received) }
func (a arrivals) Swap(i, k int)      { a[i], a[k] = a[k], a[i] }
func (a *arrivals) Push(x any)        { *a = append(*a, x.(*event)) }
func (a *arrivals) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	return last
}

// ending is a request that runs until at.
type ending struct {
	pass *limit.Pass
	at   time.Time
}

// endings are requests by when they end.
type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, k int) bool { return e[i].at.Before(e[k].at) }
func (e endings) Swap(i, k int)      { e[i], e[k] = e[k], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
