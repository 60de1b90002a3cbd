package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/peers/agree"
	"github.com/seakeep/seakeep/internal/testkit"
)

// gate is what stands around Peers: rules, a share, and a network that can be cut.
type gate struct {
	*Peers
	t     *testing.T
	stop  func()
	share atomic.Value
	cut   atomic.Bool

	mu    sync.Mutex
	known agree.Decisions
}

// cuttable is a transport that a test can cut.
type cuttable struct {
	memberlist.NodeAwareTransport
	cut     *atomic.Bool
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	ended   sync.WaitGroup
}

func newCuttable(t memberlist.NodeAwareTransport, cut *atomic.Bool) *cuttable {
	c := &cuttable{NodeAwareTransport: t, cut: cut, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{})}
	c.ended.Go(func() {
		for {
			select {
			case p := <-t.PacketCh():
				if cut.Load() {
					continue
				}
				select {
				case c.packets <- p:
				case <-c.done:
					return
				}
			case s := <-t.StreamCh():
				if cut.Load() {
					_ = s.Close()
					continue
				}
				select {
				case c.streams <- s:
				case <-c.done:
					_ = s.Close()
					return
				}
			case <-c.done:
				return
			}
		}
	})
	return c
}

func (c *cuttable) PacketCh() <-chan *memberlist.Packet { return c.packets }
func (c *cuttable) StreamCh() <-chan net.Conn           { return c.streams }

func (c *cuttable) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if c.cut.Load() {
		return time.Now(), nil
	}
	return c.NodeAwareTransport.WriteToAddress(b, a)
}

func (c *cuttable) DialAddressTimeout(a memberlist.Address, d time.Duration) (net.Conn, error) {
	if c.cut.Load() {
		return nil, errors.New("cut")
	}
	return c.NodeAwareTransport.DialAddressTimeout(a, d)
}

func (c *cuttable) Shutdown() error {
	err := c.NodeAwareTransport.Shutdown()
	close(c.done)
	c.ended.Wait()
	return err
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var key = slices.Repeat([]byte{1}, 32)

func start(t *testing.T, name, bind string, join []string, keys ...[]byte) *gate {
	t.Helper()
	g := &gate{t: t}
	g.share.Store(1.0)
	if len(keys) == 0 {
		keys = [][]byte{key}
	}
	g.Peers = New(Options{
		Config: v1alpha1.GatePeers{Bind: bind, Join: join, Name: name, Budgets: v1alpha1.BudgetsShared, ForgetAfter: &metav1.Duration{Duration: time.Minute}},
		Keys:   keys, StateDir: t.TempDir(),
		Learn:    g.learn,
		SetShare: func(f float64) { g.share.Store(f) },
		Log:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", name),
		wrap:     func(n memberlist.NodeAwareTransport) memberlist.NodeAwareTransport { return newCuttable(n, &g.cut) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Run(ctx) }()
	g.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(g.stop)
	return g
}

func (g *gate) learn(_ string, from agree.Decisions) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := agree.Merge(g.known, from, time.Now())
	g.known = l.Decisions
	if l.News {
		g.Decided(g.known)
	}
	return l.Refused
}

func (g *gate) set(n int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	r := v1alpha1.EmergencyRule{ID: fmt.Sprintf("block-%08x", n), Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"mallory"}},
		Reason: "test", Duration: metav1.Duration{Duration: time.Hour}, Created: metav1.NewTime(now), Expires: metav1.NewTime(now.Add(time.Hour))}
	g.known.Rules = append(slices.Clone(g.known.Rules), r)
	g.Decided(g.known)
	return r.ID
}

func (g *gate) lift(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.known.Rules, func(r v1alpha1.EmergencyRule) bool { return r.ID == id })
	g.known.Lifts = append(slices.Clone(g.known.Lifts), agree.Lift{ID: id, Expires: g.known.Rules[i].Expires, At: metav1.Now()})
	g.known.Rules = slices.Delete(slices.Clone(g.known.Rules), i, i+1)
	g.Decided(g.known)
}

func (g *gate) has(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.known.Rules, func(r v1alpha1.EmergencyRule) bool { return r.ID == id })
}

func (g *gate) part() float64 { return g.share.Load().(float64) }

func about(got, want float64) bool { return got > want-0.001 && got < want+0.001 }

// leavesNothing holds that no goroutine is left at the end. memberlist does not wait for a probe that is under way when it is shut
// down; the probe ends by its own time limit, in two seconds.
func leavesNothing(t *testing.T) {
	t.Helper()
	goleak.VerifyNone(t)
	t.Cleanup(func() {
		testkit.Within(t, "no goroutine is left", 15*time.Second, func() bool { return goleak.Find() == nil })
	})
}

// three starts three gates that know each other's addresses, and waits until each has a third.
func three(t *testing.T) []*gate {
	t.Helper()
	leavesNothing(t)
	addresses := []string{freePort(t), freePort(t), freePort(t)}
	var gates []*gate
	for i, address := range addresses {
		gates = append(gates, start(t, fmt.Sprintf("gate-%d", i), address, addresses))
	}
	testkit.Within(t, "each has a third", 15*time.Second, func() bool {
		for _, g := range gates {
			if !about(g.part(), 1.0/3) {
				return false
			}
		}
		return true
	})
	return gates
}

func TestThreeGates(t *testing.T) {
	gates := three(t)
	began := time.Now()
	id := gates[0].set(1)
	testkit.Within(t, "the rule is in force everywhere", 2*time.Second, func() bool { return gates[1].has(id) && gates[2].has(id) })
	t.Logf("a rule was in force on the others after %s", time.Since(began))
	began = time.Now()
	gates[1].lift(id)
	testkit.Within(t, "it is lifted everywhere", 2*time.Second, func() bool { return !gates[0].has(id) && !gates[2].has(id) })
	t.Logf("and lifted after %s", time.Since(began))

	// Stopped in order, a gate gives its part back at once.
	gates[2].stop()
	testkit.Within(t, "two have a half each", 5*time.Second, func() bool { return about(gates[0].part(), 0.5) && about(gates[1].part(), 0.5) })
	if got := gates[2].part(); got != 0 {
		t.Errorf("the stopped gate has %g", got)
	}
}

// Cut off, each side goes on with the share it had, and decides for itself; together again each knows what the other decided.
func TestPartition(t *testing.T) {
	gates := three(t)
	lifted := gates[2].set(1)
	testkit.Within(t, "the rule is in force everywhere", 2*time.Second, func() bool { return gates[0].has(lifted) && gates[1].has(lifted) })
	gates[2].cut.Store(true)
	testkit.Within(t, "the partition is noticed", 10*time.Second, func() bool {
		return len(gates[0].Status().Gates) == 2 && gates[0].Status().Gates[1].State == Away && gates[2].Status().Gates[0].State == Away
	})
	gates[0].lift(lifted)
	set := gates[2].set(2)
	testkit.Within(t, "the lift is known on its side", 2*time.Second, func() bool { return !gates[1].has(lifted) })
	for i, g := range gates {
		if !about(g.part(), 1.0/3) {
			t.Errorf("gate %d has %g of every budget, want the third it had", i, g.part())
		}
	}
	if !gates[2].has(lifted) {
		t.Error("the gate that is cut off has lost a rule")
	}
	gates[2].cut.Store(false)
	testkit.Within(t, "all know the same", 10*time.Second, func() bool {
		return !gates[2].has(lifted) && gates[0].has(set) && gates[1].has(set)
	})
	if gates[0].has(lifted) || gates[1].has(lifted) {
		t.Error("the lifted rule is back")
	}
}

// A gate that joins learns what is in force, and gets its part.
func TestLateGate(t *testing.T) {
	leavesNothing(t)
	a, b := freePort(t), freePort(t)
	first := start(t, "a", a, []string{a, b})
	id := first.set(1)
	testkit.Within(t, "alone it has everything", 10*time.Second, func() bool { return first.part() == 1 })
	second := start(t, "b", b, []string{a})
	second.Meet(t.Context())
	if !about(second.part(), 0.5) || !about(first.part(), 0.5) {
		t.Logf("%+v\n%+v", first.shares.Words(time.Now()), second.shares.Words(time.Now()))
		t.Errorf("after they met they have %g and %g", first.part(), second.part())
	}
	testkit.Within(t, "it has learned the rule", 2*time.Second, func() bool { return second.has(id) })
}

// With another key, on a port that is taken, and with names that do not resolve a gate is alone and says why.
func TestWhatDoesNotWorkIsSaid(t *testing.T) {
	leavesNothing(t)
	a, b := freePort(t), freePort(t)
	first := start(t, "a", a, []string{b})
	other := start(t, "b", b, []string{a, "no-such-host.invalid:7946"}, slices.Repeat([]byte{2}, 32))
	testkit.Within(t, "the first is open", 10*time.Second, func() bool { return first.Status().Open })
	taken := start(t, "c", a, []string{b})
	problem := func(g *gate, text string) func() bool {
		return func() bool {
			return slices.ContainsFunc(g.Warnings(), func(w string) bool { return strings.Contains(w, text) })
		}
	}
	testkit.Within(t, "the one with another key says that it cannot join", 15*time.Second, problem(other, "no gate at "+a))
	testkit.Within(t, "a name that does not resolve is said", 15*time.Second, problem(other, "no gate at no-such-host.invalid:7946"))
	testkit.Within(t, "a port that is taken is said", 15*time.Second, problem(taken, "cannot speak with other gates: listening on "+a))
	testkit.Within(t, "each is alone with everything", 15*time.Second, func() bool { return first.part() == 1 && other.part() == 1 && taken.part() == 1 })
	if len(first.Status().Gates) != 0 {
		t.Errorf("a gate with another key is a member: %+v", first.Status().Gates)
	}
	first.stop()
	testkit.Within(t, "a port that is free again is taken", 15*time.Second, func() bool { return taken.Status().Open })
}

// Keys are exchanged without a gate being alone for a moment: the new one second everywhere, then first, then alone.
func TestRotation(t *testing.T) {
	gates := three(t)
	next := slices.Repeat([]byte{9}, 32)
	for n, keys := range [][][]byte{{key, next}, {next, key}, {next}} {
		for i, g := range gates {
			if err := g.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			id := g.set(100 + 10*n + i)
			testkit.Within(t, "a rule set during the rotation is in force everywhere", 6*time.Second, func() bool {
				return gates[0].has(id) && gates[1].has(id) && gates[2].has(id)
			})
			g.lift(id)
		}
	}
}
