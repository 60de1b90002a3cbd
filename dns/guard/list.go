package guard

import (
	"slices"
	"time"
)

// Removal is something a list lacks: an object, or endpoints of one that it has.
type Removal struct {
	Item Item
	// Service is the service that loses it; for kinds other than slices, the object itself.
	Service Service
	// Whole is true when the object is not in the list.
	Whole bool
	// Endpoints are how many ready endpoints go with it; 0 for kinds without.
	Endpoints int
	// Emptied is true when the service has no ready endpoint left after the whole list.
	Emptied bool
	// Added are ready endpoints of the same service that the same list brought.
	Added int
}

// List is a whole list of one kind, compared with what is served.
type List struct {
	Kind string
	// Known is how many objects were served. Held ones do not count, nor are they among the removals.
	Known int
	// Backwards is true when the list's version is older than one seen before.
	Backwards bool
	Removals  []Removal
}

// List judges a whole list. Nobody saw what it lacks being deleted: it may have been while nobody looked, or the list
// may be wrong.
func (g *Guard) List(now time.Time, l List, t Totals) Decision {
	removals := slices.DeleteFunc(slices.Clone(l.Removals), func(r Removal) bool { return r.Added > 0 })
	decision := Decision{Reason: Shrunk}
	switch {
	case len(removals) == 0, g.config.Off:
		return Decision{}
	case l.Backwards:
		decision.Reason = Backwards
	case !g.shrunk(l, removals, t):
		return Decision{}
	}
	for _, r := range removals {
		g.hold(now, r.Item, r.Endpoints, decision.Reason)
		decision.Hold = append(decision.Hold, r.Item)
	}
	slices.SortFunc(decision.Hold, compareItems)
	return decision
}

func (g *Guard) shrunk(l List, removals []Removal, t Totals) bool {
	services, emptied := map[Service]bool{}, map[Service]bool{}
	objects, endpoints := 0, 0
	for _, r := range removals {
		services[r.Service] = true
		if r.Emptied {
			emptied[r.Service] = true
		}
		if r.Whole {
			objects++
		}
		endpoints += r.Endpoints
	}
	if l.Kind == "namespaces" {
		return objects >= g.config.MinNamespaces && ratio(objects, l.Known) >= g.config.ShrinkRatio
	}
	enough := g.enough(l.Known)
	if l.Kind == "endpointslices" {
		enough = g.enough(t.Services) // a service may have many slices
	}
	if len(services) < enough {
		return false // one service, or a few, alone
	}
	return ratio(objects, l.Known) >= g.config.ShrinkRatio || ratio(endpoints, t.Endpoints) >= g.config.ShrinkRatio ||
		ratio(len(emptied), t.Services) >= g.config.ShrinkRatio
}

func ratio(part, whole int) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
