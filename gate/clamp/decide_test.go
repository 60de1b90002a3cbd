package clamp

import (
	"testing"
	"time"
)

// rollout feeds a Decider a client that grows by 10 sources in every half second, each worth half a seat.
type rollout struct {
	d       *Decider
	at      time.Time
	sources map[string]int
}

func newRollout(policy Policy, known map[string]int) *rollout {
	r := &rollout{d: New(policy, known), at: epoch, sources: map[string]int{}}
	r.look()
	return r
}

func (r *rollout) look(users ...string) []Decision {
	r.at = r.at.Add(500 * time.Millisecond)
	o := Observation{At: r.at, Capacity: 16, Nodes: 300}
	for _, user := range users {
		r.sources[user] += 10
	}
	for user, n := range r.sources {
		o.Clients = append(o.Clients, Client{User: user, Sources: n, Seats: float64(n) / 2})
		o.Seats += float64(n) / 2
	}
	return r.d.Observe(o)
}

// until looks until something is decided.
func (r *rollout) until(t *testing.T, users ...string) []Decision {
	t.Helper()
	for range 60 {
		if decisions := r.look(users...); len(decisions) > 0 {
			return decisions
		}
	}
	return nil
}

func TestDecisions(t *testing.T) {
	got := newRollout(shipped, nil).until(t, "agent")
	if len(got) != 2 || got[0].Kind != Name || got[1].Kind != Clamp {
		t.Fatalf("%+v", got)
	}
	s := got[1].Suspect
	if s.User != "agent" || s.Spared != "" || s.Nodes != 300 || s.Forecast <= s.Headroom || s.Concurrency < 1 || float64(s.Concurrency) > s.Headroom/4 {
		t.Errorf("%+v", s)
	}
}

func TestSpared(t *testing.T) {
	policy := shipped
	policy.Spare = func(user string) string { return map[string]string{"kube-proxy": SparedSystem}[user] }
	t.Run("the system is named only", func(t *testing.T) {
		if got := newRollout(policy, nil).until(t, "kube-proxy"); len(got) != 1 || got[0].Kind != Name || got[0].Suspect.Spared != SparedSystem {
			t.Errorf("%+v", got)
		}
	})
	t.Run("everybody arrives at once", func(t *testing.T) {
		got := newRollout(policy, nil).until(t, "a", "b", "c", "d", "e")
		for _, d := range got {
			if d.Kind != Name || d.Suspect.Spared != SparedCrowd {
				t.Errorf("%+v", d)
			}
		}
		if len(got) == 0 {
			t.Error("nobody is named")
		}
	})
	t.Run("known to be everywhere", func(t *testing.T) {
		r := newRollout(policy, map[string]int{"agent": 300})
		for r.sources["agent"] < 300 {
			if got := r.look("agent"); len(got) > 0 {
				t.Fatalf("%+v", got)
			}
		}
	})
	t.Run("known from fewer", func(t *testing.T) {
		got := newRollout(policy, map[string]int{"agent": 20}).until(t, "agent")
		if len(got) != 2 || got[0].Suspect.Sources < 30 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("known from more than there are nodes left", func(t *testing.T) {
		if got := newRollout(policy, map[string]int{"agent": 5000}).until(t, "agent"); len(got) != 0 && got[0].Suspect.Sources < 300 {
			t.Errorf("%+v", got)
		}
	})
}

// On an API server that others keep busy, a client that grows and costs next to nothing is not to blame.
func TestBusyWithOthers(t *testing.T) {
	d := New(shipped, nil)
	for i := range 60 {
		n := 10 * i
		o := Observation{At: epoch.Add(time.Duration(i) * 500 * time.Millisecond), Capacity: 8, Nodes: 600, Seats: 40}
		o.Clients = []Client{{User: "light", Sources: n, Settled: max(0, n-100), Seats: 0.2, SettledSeats: 0.0001 * float64(n)}}
		if got := d.Observe(o); len(got) > 0 {
			t.Fatalf("%+v", got)
		}
	}
}

// How many sources a client comes from without harm is remembered.
func TestKnown(t *testing.T) {
	r := newRollout(Policy{HeadroomPercent: 100, Duration: time.Minute}, nil)
	r.look("agent", "agent")
	for range 200 {
		r.look()
	}
	if got := r.d.Known(); got["agent"] != 20 {
		t.Errorf("known: %v", got)
	}
}

func TestClampOverItsLife(t *testing.T) {
	r := newRollout(shipped, nil)
	got := r.until(t, "agent")
	s := got[len(got)-1].Suspect
	end := r.at.Add(10 * time.Minute)
	r.d.Clamped(s.User, "throttle-1", r.at, end, s.Concurrency)
	if again := r.look("agent"); len(again) != 0 {
		t.Errorf("clamped twice: %+v", again)
	}
	// Past its half it is prolonged, because the client holds more than the clamp leaves it.
	r.at = r.at.Add(6 * time.Minute)
	if again := r.look(); len(again) != 1 || again[0].Kind != Renew || again[0].Suspect.Rule != "throttle-1" {
		t.Fatalf("%+v", again)
	}
	r.d.Clamped(s.User, "throttle-1", r.at, r.at.Add(10*time.Minute), s.Concurrency)
	if list := r.d.Suspects(); len(list) != 1 || list[0].Rule != "throttle-1" || list[0].Until == nil {
		t.Errorf("%+v", list)
	}
	// What an operator lifted stays named and is left alone.
	r.d.Ended(s.User, r.at, true)
	for range 20 {
		for _, d := range r.look("agent") {
			if d.Kind != Name {
				t.Errorf("after it was lifted: %+v", d)
			}
		}
	}
	if list := r.d.Suspects(); len(list) != 1 || list[0].Spared != SparedLifted {
		t.Errorf("%+v", list)
	}
}

// A clamp of before a restart is known before its client is seen again.
func TestRestoredClamp(t *testing.T) {
	r := newRollout(shipped, nil)
	r.d.Clamped("agent", "throttle-1", r.at, r.at.Add(time.Minute), 1)
	if got := r.until(t, "agent"); len(got) != 1 || got[0].Kind != Renew {
		t.Errorf("%+v", got)
	}
	r.d.Clamped("gone", "throttle-2", r.at, r.at.Add(time.Minute), 1)
	r.look()
	r.d.Ended("gone", r.at, false)
	r.look()
	for _, s := range r.d.Suspects() {
		if s.User == "gone" && s.Rule != "" {
			t.Errorf("%+v", s)
		}
	}
}

// Memory does not grow with time.
func TestPointsAreBounded(t *testing.T) {
	var points []point
	for i := range 10_000 {
		points = appendPoint(points, point{at: epoch.Add(time.Duration(i) * 500 * time.Millisecond), sources: float64(i)})
		if len(points) > maxPoints {
			t.Fatalf("%d points", len(points))
		}
	}
	if span := points[len(points)-1].at.Sub(points[0].at); span < time.Minute || span > horizon+time.Minute {
		t.Errorf("they span %v", span)
	}
}
