package limit

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Rand: func() float64 { return 0 }})
		rule := throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(2)})
		if err := e.Configure([]v1alpha1.LimitRule{rule}, nil); err != nil {
			t.Fatal(err)
		}
		a, b := admit(t, e, request("u")), admit(t, e, request("u"))
		start := time.Now()
		reject(t, e, request("u"), ReasonConcurrency)
		if waited := time.Since(start); waited != waitForPlace {
			t.Errorf("waited %v for a place, want %v", waited, waitForPlace)
		}
		go func() {
			elapse(300 * time.Millisecond)
			a.Done()
			a.Done() // does nothing
		}()
		start = time.Now()
		third := admit(t, e, request("u"))
		if waited := time.Since(start); waited != 300*time.Millisecond {
			t.Errorf("waited %v for the place given back after 300ms", waited)
		}
		reject(t, e, request("u"), ReasonConcurrency)
		third.InitialEventsDone() // a watch goes on without its place
		fourth := admit(t, e, request("u"))
		reject(t, e, request("u"), ReasonConcurrency)
		third.Done()
		reject(t, e, request("u"), ReasonConcurrency) // and gives back nothing more
		fourth.Done()
		b.Done()
		admit(t, e, request("u")).Done()
	})
}

// The controller of 80 kinds: all its LISTs at once, two places, and none turned away.
func TestManySmallListsPassThroughFewPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		if err := e.Configure(nil, Shipped()); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 80 {
			all.Go(func() {
				p, r := e.Admit(request("system:serviceaccount:a:operator", func(f *flow.Request) { f.Resource = fmt.Sprintf("kind%d", i) }), nil)
				if r != nil {
					t.Errorf("LIST %d is turned away: %s", i, r.Status().Message)
					return
				}
				elapse(10 * time.Millisecond)
				p.Wrote(4 << 10)
				p.Done()
			})
		}
		all.Wait()
	})
}

// 300 agents of one ServiceAccount LIST 40 MB each, and again as soon as they are told they may: the API server writes
// no more than the rule says, and the others' requests are not touched.
func TestIncident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		if err := e.Configure(nil, Shipped()); err != nil {
			t.Fatal(err)
		}
		const size, length = 40 << 20, 2 * time.Minute
		start := time.Now()
		var mu sync.Mutex
		var written int64
		var running, most int
		var agents sync.WaitGroup
		for range 300 {
			agents.Go(func() {
				for time.Since(start) < length {
					p, r := e.Admit(request("system:serviceaccount:monitoring:telemetry"), nil)
					if r != nil {
						elapse(r.RetryAfter)
						continue
					}
					mu.Lock()
					running++
					most = max(most, running)
					mu.Unlock()
					elapse(500 * time.Millisecond)
					p.Wrote(size)
					mu.Lock()
					running--
					written += size
					mu.Unlock()
					p.Done()
				}
			})
		}
		agents.Go(func() {
			for time.Since(start) < length {
				p := admit(t, e, request("admin", get))
				p.Done()
				elapse(time.Second)
			}
		})
		agents.Wait()
		// Besides the balance, what was admitted before the debt was known: two responses, again after each repayment.
		bound := int64(64<<20) + int64(16<<20)*int64((length+10*time.Second)/time.Second) + 2*size
		if written > bound || most > 2 {
			t.Errorf("%d MiB written with %d at once, want ≤ %d MiB and 2", written>>20, most, bound>>20)
		}
		if written < bound/2 {
			t.Errorf("%d MiB written: the agents starve, their share is %d MiB", written>>20, bound>>20)
		}
		now := e.RejectedNow()
		if len(now) == 0 || now[0].User != "system:serviceaccount:monitoring:telemetry" || now[0].Rule != "seakeep-cluster-reads" {
			t.Errorf("the ledger does not name the agent first: %+v", now)
		}
	})
}
