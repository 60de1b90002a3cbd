package guard

import (
	"slices"
	"time"
)

// window are the losses that passed lately, with their sums, so that an event costs no more when there are many.
type window struct {
	services map[Service]*loss
	lost     int            // endpoints, net
	emptied  int            // services
	nodes    map[string]int // endpoints lost, by node
	oldest   time.Time      // no loss is older
}

// loss is what one service lost.
type loss struct {
	before int // ready endpoints before the first loss
	now    int
	at     time.Time // of the last loss
	nodes  []string
	items  map[Item]int // endpoints lost, by slice
}

func (w *window) add(now time.Time, l Loss) {
	s := w.services[l.Service]
	if s == nil {
		s = &loss{before: l.Before, now: l.Before, items: map[Item]int{}}
		w.services[l.Service] = s
		if len(w.services) == 1 {
			w.oldest = now
		}
	}
	w.set(s, l.After)
	s.at = now
	s.items[l.Item] += len(l.Lost)
	s.nodes = append(s.nodes, l.Lost...)
	for _, node := range l.Lost {
		w.nodes[node]++
	}
}

// set corrects how many ready endpoints a service has.
func (w *window) set(s *loss, ready int) {
	w.sum(s, -1)
	s.now = ready
	w.sum(s, 1)
}

func (w *window) sum(s *loss, sign int) {
	w.lost += sign * max(s.before-s.now, 0)
	if s.now == 0 && s.before > 0 {
		w.emptied += sign
	}
}

func (w *window) remove(service Service) {
	s := w.services[service]
	if s == nil {
		return
	}
	w.sum(s, -1)
	for _, node := range s.nodes {
		if w.nodes[node]--; w.nodes[node] == 0 {
			delete(w.nodes, node)
		}
	}
	delete(w.services, service)
}

// prune forgets losses that are older than d: they passed, and are the truth now.
func (w *window) prune(now time.Time, d time.Duration) {
	if len(w.services) == 0 || now.Sub(w.oldest) < d {
		return
	}
	oldest := now
	for service, s := range w.services {
		if now.Sub(s.at) >= d {
			w.remove(service)
		} else if s.at.Before(oldest) {
			oldest = s.at
		}
	}
	w.oldest = oldest
}

// spread is on how many nodes the losses are. Endpoints that name no node do not say that they share one.
func (w *window) spread() int {
	named := len(w.nodes)
	if w.nodes[""] > 0 {
		named += w.nodes[""] - 1
	}
	return named
}

func (w *window) clear() {
	*w = window{services: map[Service]*loss{}, nodes: map[string]int{}}
}

// Loss judges an event of the watch. The caller has not applied it yet.
func (g *Guard) Loss(now time.Time, l Loss, t Totals) Decision {
	if g.config.Off {
		return Decision{}
	}
	if l.Added > 0 {
		// A replacement: news, whatever else happens (cilium/cilium#48050). It also ends what this service lost before.
		g.window.remove(l.Service)
		return Decision{}
	}
	if g.activeUntil[Correlated].After(now) {
		// It belongs to what was recognised, which goes on as long as losses come.
		g.hold(now, l.Item, len(l.Lost), Correlated)
		g.activeUntil[Correlated] = now.Add(g.config.Window)
		return Decision{Reason: Correlated, Hold: []Item{l.Item}}
	}
	g.window.prune(now, g.config.Window)
	g.window.add(now, l)
	if !g.correlated(l, t) {
		return Decision{}
	}
	decision := Decision{Reason: Correlated, Hold: []Item{l.Item}}
	for _, s := range g.window.services {
		for i, endpoints := range s.items {
			g.hold(now, i, endpoints, Correlated)
			if i != l.Item || endpoints > len(l.Lost) {
				decision.PutBack = append(decision.PutBack, i)
			}
		}
	}
	slices.SortFunc(decision.PutBack, compareItems)
	g.window.clear()
	g.activeUntil[Correlated] = now.Add(g.config.Window)
	return decision
}

// Regained notes how many ready endpoints a service has after an event that took none: what came back was no loss.
func (g *Guard) Regained(s Service, ready int) {
	w := g.window.services[s]
	if w == nil {
		return
	}
	if ready >= w.before {
		g.window.remove(s)
		return
	}
	g.window.set(w, ready)
}

// Deleted notes that a service was seen to be deleted: what it lost was meant.
func (g *Guard) Deleted(s Service) { g.window.remove(s) }

// correlated judges the losses in the window together, of what was there before any of them.
func (g *Guard) correlated(l Loss, t Totals) bool {
	w := &g.window
	services := t.Services + w.emptied
	if l.After == 0 {
		services-- // the totals still count it
	}
	endpoints := t.Endpoints + w.lost - (l.Before - l.After)
	enough := g.enough(services)
	if len(w.services) < enough {
		return false
	}
	few := max(g.config.FewNodes, int(g.config.FewNodesRatio*float64(t.Nodes)))
	if spread := w.spread(); spread <= few && spread < t.Nodes {
		return false
	}
	return w.emptied >= enough && ratio(w.emptied, services) >= g.config.EmptiedRatio ||
		ratio(w.lost, endpoints) >= g.config.LostRatio
}

// enough is how many of so many services make a loss more than one service's own.
func (g *Guard) enough(services int) int { return max(2, min(g.config.MinServices, services)) }

// NamespaceGone judges a namespace that was deleted, or left what is selected, with so many services still in it; there
// were so many namespaces with it. In a real deletion the services go first.
func (g *Guard) NamespaceGone(now time.Time, name string, services, namespaces int) Decision {
	if services == 0 || g.config.Off {
		return Decision{}
	}
	item := Item{Kind: "namespaces", Name: name}
	if g.activeUntil[ManyNamespaces].After(now) {
		g.hold(now, item, 0, ManyNamespaces)
		g.activeUntil[ManyNamespaces] = now.Add(g.config.Window)
		return Decision{Reason: ManyNamespaces, Hold: []Item{item}}
	}
	for gone, at := range g.namespaces {
		if now.Sub(at) >= g.config.Window {
			delete(g.namespaces, gone)
		}
	}
	g.namespaces[name] = now
	if gone := len(g.namespaces); gone < g.config.MinNamespaces || ratio(gone, namespaces+gone-1) < g.config.ShrinkRatio {
		return Decision{}
	}
	decision := Decision{Reason: ManyNamespaces, Hold: []Item{item}}
	for gone := range g.namespaces {
		i := Item{Kind: "namespaces", Name: gone}
		g.hold(now, i, 0, ManyNamespaces)
		if gone != name {
			decision.PutBack = append(decision.PutBack, i)
		}
	}
	slices.SortFunc(decision.PutBack, compareItems)
	clear(g.namespaces)
	g.activeUntil[ManyNamespaces] = now.Add(g.config.Window)
	return decision
}
