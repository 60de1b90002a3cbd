package admit

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/cost"
	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/internal/testkit"
)

// comesBack is a room whose control plane has just come back, with LISTs of pods that are known to be small.
func comesBack(t *testing.T) *Room {
	t.Helper()
	started := time.Now().Add(-time.Hour)
	r := openWith(t, configuration(40), func() []law.Server {
		return []law.Server{{Name: "a", Serving: true, Reading: &law.Reading{
			At: time.Now().Truncate(time.Second), Over: time.Second, Started: started, CPU: 0.2, CPUBound: 2, Resident: 500 << 20, MemoryBound: 8 << 30,
		}}}
	})
	f, req := of("system:serviceaccount:a:agent", "list", "/api/v1/pods")
	for range 30 {
		r.costs.Observe(time.Now(), cost.ShapeOf(f, req), cost.Sample{Upstream: 5 * time.Millisecond, Bytes: 300_000, Code: 200})
	}
	r.mu.Lock()
	r.ramp.Begin(time.Now(), 40)
	r.mu.Unlock()
	return r
}

func (r *Room) returningNow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.len()
}

// Everybody comes at once and nobody is turned away: who waits is let in as others end, the higher levels first.
func TestReturning(t *testing.T) {
	r := comesBack(t)
	var mu sync.Mutex
	var order []v1alpha1.LevelName
	var going sync.WaitGroup
	list := func(user string, level v1alpha1.LevelName) {
		going.Go(func() {
			f, req := of(user, "list", "/api/v1/pods")
			s, rejection := r.Enter(t.Context(), f, req)
			if s == nil {
				t.Errorf("%s is turned away: %v", user, rejection.Status().Message)
				return
			}
			mu.Lock()
			order = append(order, level)
			mu.Unlock()
			s.Done(Outcome{Code: 200, Upstream: time.Millisecond, Bytes: 300_000})
		})
	}
	for i := range 100 {
		list(fmt.Sprintf("system:serviceaccount:a:agent%d", i), v1alpha1.LevelWorkload)
	}
	testkit.Within(t, "agents wait", 10*time.Second, func() bool { return r.returningNow() > 20 })
	list("system:kube-scheduler", v1alpha1.LevelSystem)
	going.Wait()
	if n := r.returningNow(); n != 0 || len(order) != 101 {
		t.Errorf("%d wait and %d were let in", n, len(order))
	}
	for i, level := range order {
		if level == v1alpha1.LevelSystem && i > 95 {
			t.Errorf("the scheduler came as number %d", i)
		}
	}
	for _, l := range r.levels {
		testkit.Within(t, fmt.Sprintf("nothing of level %s is left", l.name), 10*time.Second, func() bool {
			return l.entering.Load() == 0 && l.waiting.Load() == 0
		})
	}
}

// A client that leaves while it waits leaves nothing behind.
func TestReturningAndGone(t *testing.T) {
	r := comesBack(t)
	ctx, cancel := context.WithCancel(t.Context())
	var going sync.WaitGroup
	for i := range 200 {
		going.Go(func() {
			f, req := of(fmt.Sprintf("system:serviceaccount:a:agent%d", i), "list", "/api/v1/pods")
			if s, _ := r.Enter(ctx, f, req); s != nil {
				<-ctx.Done()
				s.Done(Outcome{Code: 200})
			}
		})
	}
	testkit.Within(t, "agents wait", 10*time.Second, func() bool { return r.returningNow() > 50 })
	cancel()
	going.Wait()
	if n := r.returningNow(); n != 0 {
		t.Errorf("%d wait who are gone", n)
	}
	for _, l := range r.levels {
		testkit.Within(t, fmt.Sprintf("nothing of level %s is left", l.name), 10*time.Second, func() bool {
			return l.entering.Load() == 0 && l.waiting.Load() == 0 && l.inUse.Load() == 0
		})
	}
}
