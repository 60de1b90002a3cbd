package guard

import (
	"cmp"
	"slices"
	"time"
)

// Reason says why a removal is held. It is a label of metrics.
type Reason string

// The reasons.
const (
	// Correlated: in one window, much of the cluster was lost.
	Correlated Reason = "correlated_loss"
	// ManyNamespaces: in one window, many namespaces went with services in them.
	ManyNamespaces Reason = "namespaces_lost"
	// Shrunk: a list lacked much of what was known.
	Shrunk Reason = "shrunk_list"
	// Backwards: a list's version was older than one already seen, as after a restore of etcd.
	Backwards Reason = "version_backwards"
)

// Reasons lists them, for metrics.
var Reasons = []Reason{Correlated, ManyNamespaces, Shrunk, Backwards}

// Item is one object with something held: a slice with endpoints, or an object that is gone as a whole.
type Item struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Service names a service.
type Service struct{ Namespace, Name string }

// Totals are what is served now, held endpoints included, before what is asked about.
type Totals struct {
	Services  int // with at least one ready endpoint
	Endpoints int // ready
	Nodes     int // with at least one ready endpoint
}

// Loss is an event of the watch after which a service has fewer ready endpoints.
type Loss struct {
	// Item is the slice that lost them.
	Item    Item
	Service Service
	// Before and After are the service's ready endpoints, over all its slices.
	Before, After int
	// Added are ready endpoints that the same event brought.
	Added int
	// Lost are the endpoints lost, by the name of their node; "" for those without.
	Lost []string
}

// Decision is what is to be done. Everything not in Hold passes.
type Decision struct {
	Reason Reason
	// Hold are the items whose removal is to be held.
	Hold []Item
	// PutBack are items whose losses passed within the window, before it was known that they were part of something
	// larger: they are to be served again.
	PutBack []Item
}

// Hold is one line of what is held.
type Hold struct {
	Item
	Reason    Reason    `json:"reason"`
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
	Endpoints int       `json:"endpoints,omitempty"`
}

// Guard decides. It is not safe for concurrent use; times must not run backwards from call to call.
type Guard struct {
	config Config
	holds  map[Item]*Hold
	// window are the losses that passed lately.
	window window
	// namespaces are those that went within the window, with their time.
	namespaces map[string]time.Time
	// activeUntil: before it, every loss belongs to the event that was recognised.
	activeUntil map[Reason]time.Time
}

// New returns a guard that holds nothing. The configuration must be valid.
func New(config Config) *Guard {
	g := &Guard{config: config, holds: map[Item]*Hold{}, namespaces: map[string]time.Time{}, activeUntil: map[Reason]time.Time{}}
	g.window.clear()
	return g
}

// Active is true while something is held, or while losses are being held.
func (g *Guard) Active(now time.Time) bool {
	return len(g.holds) > 0 || g.activeUntil[Correlated].After(now) || g.activeUntil[ManyNamespaces].After(now)
}

// Holds lists what is held, the longest held first.
func (g *Guard) Holds() []Hold {
	holds := make([]Hold, 0, len(g.holds))
	for _, h := range g.holds {
		holds = append(holds, *h)
	}
	slices.SortFunc(holds, func(a, b Hold) int {
		return cmp.Or(a.Since.Compare(b.Since), compareItems(a.Item, b.Item))
	})
	return holds
}

// Held is true when something of the item is held.
func (g *Guard) Held(i Item) bool { return g.holds[i] != nil }

// Count is how many items are held.
func (g *Guard) Count() int { return len(g.holds) }

// Size is how much is held: endpoints, and objects that have none.
func (g *Guard) Size() int {
	n := 0
	for _, h := range g.holds {
		n += max(h.Endpoints, 1)
	}
	return n
}

// Forget ends what is held of an item without a decision: it came back, or was seen to be deleted.
func (g *Guard) Forget(i Item) { delete(g.holds, i) }

// Remaining corrects how many endpoints of an item are held, after some came back; none ends it.
func (g *Guard) Remaining(i Item, endpoints int) {
	if h := g.holds[i]; h != nil {
		if h.Endpoints = endpoints; endpoints == 0 {
			delete(g.holds, i)
		}
	}
}

// Due ends what has been held for its time, and returns it: it is to be applied now.
func (g *Guard) Due(now time.Time) []Item {
	return g.Release(func(h Hold) bool { return !h.Until.After(now) })
}

// Release ends what matches and returns it: it is to be applied now.
func (g *Guard) Release(match func(Hold) bool) []Item {
	var released []Item
	for i, h := range g.holds {
		if match(*h) {
			delete(g.holds, i)
			released = append(released, i)
		}
	}
	slices.SortFunc(released, compareItems)
	return released
}

// Corroborable is true for what a second source can confirm. Where the doubt is in one list, another source's list
// settles it. Correlated losses and versions that run backwards come out of the cluster's own database, and every
// source would only repeat them.
func (h Hold) Corroborable() bool { return h.Reason == Shrunk }

func (g *Guard) hold(now time.Time, i Item, endpoints int, reason Reason) {
	if h := g.holds[i]; h != nil {
		// The time runs from the first removal, or a flapping node could keep it from ever ending.
		h.Endpoints += endpoints
		return
	}
	g.holds[i] = &Hold{Item: i, Reason: reason, Since: now, Until: now.Add(g.config.MaxHold), Endpoints: endpoints}
}

func compareItems(a, b Item) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
