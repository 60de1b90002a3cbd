package guard

import (
	"strings"
	"testing"
	"testing/quick"
	"time"
)

func TestValidate(t *testing.T) {
	if err := Defaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	tests := map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"no window":             {func(c *Config) { c.Window = 0 }, "window"},
		"held for ever":         {func(c *Config) { c.MaxHold = -1 }, "maxHold"},
		"one service is many":   {func(c *Config) { c.MinServices = 1 }, "minServices"},
		"a ratio over one":      {func(c *Config) { c.LostRatio = 1.5 }, "lostRatio must be > 0 and ≤ 1, got 1.5"},
		"nothing may be lost":   {func(c *Config) { c.ShrinkRatio = 0 }, "shrinkRatio"},
		"all nodes are few":     {func(c *Config) { c.FewNodesRatio = 1 }, "fewNodesRatio"},
		"one namespace is many": {func(c *Config) { c.MinNamespaces = 0 }, "minNamespaces"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := Defaults()
			tc.spoil(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
		})
	}
}

// Whatever happens in whatever order, nothing is held for longer than it may be, an update that brings something is
// never held, and one service alone never is.
func TestWhateverHappens(t *testing.T) {
	type step struct {
		Service          uint8
		Lost, Added      uint8
		Seconds          uint8
		List, Namespaces bool
	}
	start := time.Unix(0, 0)
	check := func(steps []step, alone bool) bool {
		g := New(Defaults())
		now := start
		for _, s := range steps {
			now = now.Add(time.Duration(s.Seconds) * time.Second)
			g.Due(now)
			if alone {
				s.Service, s.Namespaces = 1, false
			}
			name := strings.Repeat("x", int(s.Service%20)+1)
			totals := Totals{Services: 20, Endpoints: 20 * 255, Nodes: 7}
			i := Item{Kind: "endpointslices", Name: name}
			added := int(s.Added % 2)
			var d Decision
			switch {
			case s.Namespaces:
				d = g.NamespaceGone(now, name, int(s.Lost), 20)
			case s.List:
				d = g.List(now, List{Kind: i.Kind, Known: 20, Removals: []Removal{{Item: i, Service: Service{Name: name}, Endpoints: int(s.Lost), Added: added}}}, totals)
			default:
				d = g.Loss(now, Loss{Item: i, Service: Service{Name: name}, Before: 255, After: 255 - int(s.Lost), Added: added, Lost: make([]string, s.Lost)}, totals)
			}
			if len(d.Hold) > 0 && (alone || added > 0 && !s.Namespaces) {
				t.Logf("step %+v is held: %+v", s, d)
				return false
			}
			for _, h := range g.Holds() {
				if h.Until.Sub(h.Since) != Defaults().MaxHold || !h.Until.After(now) {
					t.Logf("held too long at %v: %+v", now, h)
					return false
				}
			}
		}
		return true
	}
	for name, alone := range map[string]bool{"many": false, "alone": true} {
		t.Run(name, func(t *testing.T) {
			if err := quick.Check(func(steps []step) bool { return check(steps, alone) }, &quick.Config{MaxCount: 500}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOff(t *testing.T) {
	g := New(Config{Off: true})
	if err := g.config.Validate(); err != nil {
		t.Fatal(err)
	}
	now, totals := time.Unix(0, 0), Totals{Services: 20, Endpoints: 20, Nodes: 9}
	for i := range 20 {
		s := Service{Name: string(rune('a' + i))}
		item := Item{Kind: "endpointslices", Name: s.Name}
		for what, d := range map[string]Decision{
			"loss":      g.Loss(now, Loss{Item: item, Service: s, Before: 1, Lost: []string{s.Name}}, totals),
			"list":      g.List(now, List{Kind: item.Kind, Known: 20, Backwards: true, Removals: []Removal{{Item: item, Service: s, Whole: true, Endpoints: 1}}}, totals),
			"namespace": g.NamespaceGone(now, s.Name, 5, 20),
		} {
			if d.Hold != nil || g.Active(now) {
				t.Errorf("%s: %+v, with the guard off", what, d)
			}
		}
	}
}

// What the window counts must be what is in it, or one wrong sum would hold everything, or nothing, for ever.
func TestWindowSums(t *testing.T) {
	g := New(Defaults())
	now := time.Unix(0, 0)
	for i := range 300 {
		s := Service{Name: string(rune('a' + i%7))}
		before := 10 + i%3
		g.Loss(now, Loss{Item: Item{Name: s.Name}, Service: s, Before: before, After: before - 1, Lost: []string{"n" + s.Name}}, Totals{Services: 1000, Endpoints: 10_000, Nodes: 100})
		switch i % 5 {
		case 0:
			g.Regained(s, before)
		case 1:
			g.Regained(s, 5)
		case 2:
			g.Deleted(s)
		}
		now = now.Add(time.Duration(i%13) * time.Second)
		g.window.prune(now, g.config.Window)
		var lost, emptied, nodes int
		for _, l := range g.window.services {
			lost += max(l.before-l.now, 0)
			nodes += len(l.nodes)
			if l.now == 0 {
				emptied++
			}
		}
		for _, n := range g.window.nodes {
			nodes -= n
		}
		if lost != g.window.lost || emptied != g.window.emptied || nodes != 0 {
			t.Fatalf("step %d: the window says %d lost and %d emptied, its services %d and %d; nodes differ by %d",
				i, g.window.lost, g.window.emptied, lost, emptied, nodes)
		}
	}
}
