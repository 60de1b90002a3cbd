package guard

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what the guard does into the transcripts")

// world is a cluster as it is (truth) and as it is served, which is what a keeper does of both.
type world struct {
	t     *testing.T
	g     *Guard
	now   time.Time
	start time.Time
	// truth and served are the ready endpoints of each service's one slice: names to nodes.
	truth, served map[int]map[string]string
	nodes, fresh  int
	gone          map[string]bool // namespaces
	absent        map[Item]bool   // held whole
	recent        map[int]map[string]string
}

func (w *world) do(line string) []string {
	words := strings.Fields(line)
	args := map[string]string{}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		args[key] = value
	}
	switch words[0] {
	case "cluster":
		w.build(number(args["services"]), number(args["endpoints"]), number(args["nodes"]))
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			w.t.Fatal(err)
		}
		w.now = w.now.Add(d)
		if due := w.g.Due(w.now); len(due) > 0 {
			w.apply(due)
			return []string{fmt.Sprintf("%d released, their time is up", len(due)), w.state()}
		}
	case "holds":
		return w.holds()
	case "release":
		w.apply(w.g.Release(func(Hold) bool { return true }))
	case "corroborate":
		w.apply(w.g.Release(Hold.Corroborable))
	case "namespaces":
		return w.namespaces(args)
	case "list":
		return []string{w.list(args), w.state()}
	default:
		return append(w.events(words, args), w.state())
	}
	return []string{w.state()}
}

func (w *world) build(services, endpoints, nodes int) {
	w.g = New(Defaults())
	w.truth, w.served, w.recent = map[int]map[string]string{}, map[int]map[string]string{}, map[int]map[string]string{}
	w.absent, w.gone, w.nodes, w.start = map[Item]bool{}, map[string]bool{}, nodes, w.now
	for s := 1; s <= services; s++ {
		w.truth[s] = w.some(endpoints)
		w.served[s] = maps.Clone(w.truth[s])
	}
}

// some are new endpoints, on one node after the other.
func (w *world) some(n int) map[string]string {
	endpoints := map[string]string{}
	for range n {
		w.fresh++
		endpoints[fmt.Sprintf("ep-%d", w.fresh)] = fmt.Sprintf("node-%d", w.fresh%w.nodes+1)
	}
	return endpoints
}

func (w *world) totals() Totals {
	var t Totals
	nodes := map[string]bool{}
	for _, endpoints := range w.served {
		if len(endpoints) > 0 {
			t.Services++
		}
		t.Endpoints += len(endpoints)
		for _, node := range endpoints {
			nodes[node] = true
		}
	}
	t.Nodes = len(nodes)
	return t
}

func (w *world) state() string {
	t := w.totals()
	var lost int
	for s, served := range w.served {
		for e := range served {
			if _, ready := w.truth[s][e]; !ready {
				lost++
			}
		}
	}
	return fmt.Sprintf("%s served: %d services with %d endpoints; %d of these are held", w.now.Sub(w.start).Round(time.Millisecond), t.Services, t.Endpoints, lost)
}

func item(s int) Item     { return Item{"endpointslices", "ns", "svc-" + strconv.Itoa(s)} }
func svc(s int) Service   { return Service{"ns", "svc-" + strconv.Itoa(s)} }
func number(s string) int { n, _ := strconv.Atoi(s); return n }
func between(s string) (a, b int) {
	from, to, found := strings.Cut(s, "..")
	if !found {
		to = from
	}
	return number(from), number(to)
}

// events are updates of slices, one service after the other.
func (w *world) events(words []string, args map[string]string) []string {
	var services []int
	if words[0] == "node" {
		services = slices.Sorted(maps.Keys(w.truth))
	} else {
		a, b := between(words[1])
		for s := a; s <= b; s++ {
			services = append(services, s)
		}
	}
	over, _ := time.ParseDuration(args["over"])
	var said []string
	say := newRuns()
	for _, s := range services {
		if len(services) > 1 {
			w.now = w.now.Add(over / time.Duration(len(services)))
		}
		if decision := w.event(s, words, args); decision != "" {
			say.add(s, decision)
		}
	}
	return append(said, say.lines()...)
}

func (w *world) event(s int, words []string, args map[string]string) string {
	switch words[0] {
	case "lose":
		truth := map[string]string{}
		for _, e := range slices.Sorted(maps.Keys(w.truth[s]))[:number(args["to"])] {
			truth[e] = w.truth[s][e]
		}
		return w.update(s, truth)
	case "bring":
		return w.update(s, w.all(s))
	case "replace":
		return w.update(s, w.some(len(w.truth[s])+len(w.lostOf(s))))
	case "node":
		truth := maps.Clone(w.truth[s])
		maps.DeleteFunc(truth, func(_, node string) bool { return slices.Contains(words[1:], node) })
		if len(truth) == len(w.truth[s]) {
			return ""
		}
		return w.update(s, truth)
	case "delete":
		w.g.Deleted(svc(s))
		w.g.Forget(item(s))
		delete(w.truth, s)
		delete(w.served, s)
		return "pass"
	}
	w.t.Fatalf("no command %q", words[0])
	return ""
}

func (w *world) lostOf(s int) map[string]string {
	lost := map[string]string{}
	for e, node := range w.served[s] {
		if _, ready := w.truth[s][e]; !ready {
			lost[e] = node
		}
	}
	return lost
}

// all is every endpoint the service is known to have had.
func (w *world) all(s int) map[string]string {
	all := maps.Clone(w.truth[s])
	maps.Copy(all, w.served[s])
	maps.Copy(all, w.recent[s])
	if len(all) == 0 {
		all = w.some(1)
	}
	return all
}

func (w *world) update(s int, truth map[string]string) string {
	held := w.lostOf(s)
	var lost []string
	for e, node := range w.served[s] {
		if _, stays := truth[e]; !stays && held[e] == "" {
			lost = append(lost, node)
			if w.recent[s] == nil {
				w.recent[s] = map[string]string{}
			}
			w.recent[s][e] = node
		}
	}
	added := 0
	for e := range truth {
		if _, served := w.served[s][e]; !served {
			added++
		}
	}
	served := maps.Clone(truth)
	if added > 0 {
		w.g.Forget(item(s))
	} else {
		for e, node := range held {
			served[e] = node
		}
	}
	var d Decision
	if len(lost) > 0 {
		before := len(w.served[s])
		d = w.g.Loss(w.now, Loss{Item: item(s), Service: svc(s), Before: before, After: before - len(lost), Added: added, Lost: lost}, w.totals())
	}
	if len(d.Hold) > 0 {
		maps.Copy(served, w.served[s])
	}
	w.truth[s], w.served[s] = truth, served
	if len(lost) == 0 {
		w.g.Regained(svc(s), len(served))
		w.g.Remaining(item(s), len(w.lostOf(s)))
	}
	for _, back := range d.PutBack {
		s := number(strings.TrimPrefix(back.Name, "svc-"))
		maps.Copy(w.served[s], w.recent[s])
	}
	switch {
	case len(d.PutBack) > 0:
		return fmt.Sprintf("hold (%s), and put back what %d lost before", d.Reason, len(d.PutBack))
	case len(d.Hold) > 0:
		return fmt.Sprintf("hold (%s)", d.Reason)
	}
	return "pass"
}

func (w *world) list(args map[string]string) string {
	_, backwards := args["backwards"]
	l := List{Kind: "endpointslices", Known: len(w.served), Backwards: backwards}
	truth := map[int]map[string]string{}
	for s := range w.served {
		truth[s] = maps.Clone(w.truth[s])
	}
	each := func(key string, f func(s, n int)) {
		span, n, _ := strings.Cut(args[key], ":")
		if a, b := between(span); a > 0 {
			for s := a; s <= b; s++ {
				f(s, number(n))
			}
		}
	}
	missing := map[int]bool{}
	each("missing", func(s, _ int) { truth[s] = map[string]string{}; missing[s] = true })
	each("emptied", func(s, _ int) { truth[s] = map[string]string{} })
	each("replaced", func(s, _ int) { truth[s] = w.some(len(w.truth[s])) })
	each("lost", func(s, n int) {
		for _, e := range slices.Sorted(maps.Keys(truth[s]))[:n] {
			delete(truth[s], e)
		}
	})
	for _, s := range slices.Sorted(maps.Keys(truth)) {
		lost, added := 0, 0
		held := w.lostOf(s)
		for e := range w.served[s] {
			if _, stays := truth[s][e]; !stays && held[e] == "" {
				lost++
			}
		}
		for e := range truth[s] {
			if _, known := w.served[s][e]; !known {
				added++
			}
		}
		if lost > 0 || missing[s] && !w.absent[item(s)] {
			l.Removals = append(l.Removals, Removal{
				Item: item(s), Service: svc(s), Whole: missing[s], Endpoints: lost, Emptied: lost == len(w.served[s]), Added: added,
			})
		}
	}
	d := w.g.List(w.now, l, w.totals())
	for s := range truth {
		served := maps.Clone(truth[s])
		if slices.Contains(d.Hold, item(s)) || w.g.Held(item(s)) {
			maps.Copy(served, w.served[s])
			w.absent[item(s)] = missing[s]
		}
		w.truth[s], w.served[s] = truth[s], served
	}
	if len(d.Hold) == 0 {
		return fmt.Sprintf("%d removals: pass", len(l.Removals))
	}
	return fmt.Sprintf("%d removals: hold %d of them (%s)", len(l.Removals), len(d.Hold), d.Reason)
}

func (w *world) namespaces(args map[string]string) []string {
	a, b := between(args["gone"])
	of := number(args["of"])
	say := newRuns()
	for n := a; n <= b; n++ {
		d := w.g.NamespaceGone(w.now, "ns-"+strconv.Itoa(n), number(args["services"]), of)
		switch {
		case len(d.PutBack) > 0:
			say.add(n, fmt.Sprintf("hold (%s), and put back the %d before", d.Reason, len(d.PutBack)))
		case len(d.Hold) > 0:
			say.add(n, fmt.Sprintf("hold (%s)", d.Reason))
		default:
			say.add(n, "pass")
			of--
		}
	}
	return say.lines()
}

func (w *world) apply(released []Item) {
	for _, i := range released {
		if s := number(strings.TrimPrefix(i.Name, "svc-")); s > 0 {
			w.served[s] = maps.Clone(w.truth[s])
		}
	}
}

// holds sums up by reason what is held.
func (w *world) holds() []string {
	said := []string{}
	for _, reason := range Reasons {
		var items, endpoints int
		var first, last time.Duration
		for _, h := range w.g.Holds() {
			if h.Reason != reason {
				continue
			}
			if items == 0 {
				first = h.Until.Sub(w.start)
			}
			items, endpoints, last = items+1, endpoints+h.Endpoints, h.Until.Sub(w.start)
		}
		if items > 0 {
			said = append(said, fmt.Sprintf("%d items with %d endpoints (%s); the first is released at %s, the last at %s",
				items, endpoints, reason, first.Round(time.Millisecond), last.Round(time.Millisecond)))
		}
	}
	if len(said) == 0 {
		return []string{"nothing"}
	}
	return said
}

// runs joins equal decisions of one service after the other into a line.
type runs struct {
	from, to int
	what     string
	said     []string
}

func newRuns() *runs { return &runs{} }

func (r *runs) add(n int, what string) {
	if what != r.what {
		r.flush()
		r.from, r.what = n, what
	}
	r.to = n
}

func (r *runs) flush() {
	switch {
	case r.what == "":
	case r.from == r.to:
		r.said = append(r.said, fmt.Sprintf("%d: %s", r.from, r.what))
	default:
		r.said = append(r.said, fmt.Sprintf("%d..%d: %s", r.from, r.to, r.what))
	}
}

func (r *runs) lines() []string {
	r.flush()
	return r.said
}
