package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// These tests are about time: deadlines, bakes, looks that take long. What a cluster does is simulated here and nowhere else; that
// the engine steps real ones is tested in TestEngineOnLabs.

// simulated is a cluster whose pods are ready some time after they were made.
type simulated struct {
	name string

	mu       sync.Mutex
	takes    time.Duration // until a new pod is ready
	template string
	nodes    map[string]*simulatedPod
	uids     int
	deleted  map[string]int
	seen     int
}

type simulatedPod struct {
	uid, revision string
	since         time.Time
	sick          bool
}

func newSimulated(name string, nodes int) *simulated {
	s := &simulated{name: name, takes: 5 * time.Second, template: "old", nodes: map[string]*simulatedPod{}, deleted: map[string]int{}}
	for i := range nodes {
		s.uids++
		s.nodes[fmt.Sprintf("%s-%03d", name, i)] = &simulatedPod{uid: fmt.Sprint(s.uids), revision: "old", since: time.Now().Add(-time.Hour)}
	}
	return s
}

func (s *simulated) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *simulated) exposed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.nodes {
		if p.revision == "new" {
			n++
		}
	}
	return n
}

func (s *simulated) Survey(context.Context) (nodes []plan.Node, err error) {
	for name := range s.nodes {
		nodes = append(nodes, plan.Node{Name: name})
	}
	return nodes, nil
}

func (s *simulated) Prepare(context.Context) (target.Pins, error) {
	return target.Pins{Object: "o", Stable: "old", After: json.RawMessage(`{}`)}, nil
}

func (s *simulated) Begin(_ context.Context, p target.Pins) (target.Pins, error) {
	s.do(func() { s.template = "new" })
	p.Update = "new"
	return p, nil
}

func (s *simulated) See(_ context.Context, p target.Pins) (plan.Seen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	seen := plan.Seen{Update: p.Update, Stable: p.Stable}
	for name, pod := range s.nodes {
		seen.Nodes = append(seen.Nodes, plan.SeenNode{Name: name, Ready: true, Pods: []plan.SeenPod{{
			Name: "ns/" + name, UID: pod.uid, Revision: pod.revision, Ready: time.Since(pod.since) >= s.takes && !pod.sick,
		}}})
	}
	return seen, nil
}

func (s *simulated) Ready(context.Context, target.Pins) (time.Time, error) { return time.Now(), nil }

func (s *simulated) Move(_ context.Context, _ target.Pins, moves []plan.Move, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range moves {
		s.deleted[m.UID]++
		if p := s.nodes[m.Node]; p != nil && p.uid == m.UID {
			s.uids++
			*p = simulatedPod{uid: fmt.Sprint(s.uids), revision: s.template, since: time.Now()}
		}
	}
	return nil
}

func (s *simulated) Revert(context.Context, target.Pins) error {
	s.do(func() { s.template = "old" })
	return nil
}

func (s *simulated) Finish(context.Context, target.Pins, bool) error { return nil }

func (s *simulated) Rights(target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	return []authorizationv1.ResourceAttributes{{Verb: "delete", Resource: "pods"}}, nil
}

func (s *simulated) Component(context.Context, target.Pins) (jail.Component, error) {
	return jail.Component{Cluster: s.name, ServiceAccount: "ns/agent"}, nil
}

// free is a lease that nobody else wants.
type free struct{}

func (free) Acquire(ctx context.Context, _ func(string)) (context.Context, func(), error) {
	held, cancel := context.WithCancel(ctx)
	return held, cancel, nil
}

// simulation runs an engine over simulated clusters, in a bubble.
type simulation struct {
	t        *testing.T
	clusters map[string]*simulated
	judge    *judge
	dir      string
	e        *Engine
	options  Options
	stop     func()
	ended    chan journal.Run
}

func simulate(t *testing.T, sizes map[string]int, change func(*v1alpha1.Rollout)) *simulation {
	return simulateWith(t, sizes, change, func(*Cluster) {})
}

// simulateWith simulates clusters that have more than a target and a fence.
func simulateWith(t *testing.T, sizes map[string]int, change func(*v1alpha1.Rollout), more func(*Cluster)) *simulation {
	s := &simulation{t: t, clusters: map[string]*simulated{}, judge: &judge{saw: map[string]int{}}, dir: t.TempDir(), ended: make(chan journal.Run, 1)}
	rollout := &v1alpha1.Rollout{Name: "simulated"}
	rollout.Change.DaemonSet = &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Namespace: "ns", Name: "agent", Patch: map[string]any{"spec": map[string]any{}}}}
	rollout.Stages = []v1alpha1.RolloutStage{{Name: "all", LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	rollout.Interval = &metav1.Duration{Duration: 10 * time.Second}
	rollout.Analysis.ConsecutiveLooks = 1
	rollout.Bake.MinDuration = &metav1.Duration{Duration: 5 * time.Minute}
	rollout.OnFailure.Rungs = []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungRevert}}
	if change != nil {
		change(rollout)
	}
	rollout.SetDefaults()
	if errs := rollout.Validate(); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	members, clusters := map[string]Member{}, map[string]Cluster{}
	for name, nodes := range sizes {
		s.clusters[name] = newSimulated(name, nodes)
		members[name] = Member{Labels: map[string]string{"a": "b", "name": name}, Target: s.clusters[name]}
		c := Cluster{Target: s.clusters[name], Fence: free{}}
		more(&c)
		clusters[name] = c
	}
	p, orders, err := Plan(t.Context(), rollout, "run-1", members)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Risks = []plan.Risk{{Name: "cluster-wide-read", Severity: "High", Object: "DaemonSet ns/agent", Field: "ClusterRoleBinding agent", Why: "it reads all"}}
	if err := Record(j, rollout, nil, "", p, orders); err != nil {
		t.Fatal(err)
	}
	s.options = Options{Run: "run-1", Clusters: clusters, Analyst: s.judge, Growth: s.judge, Log: slog.New(slog.DiscardHandler)}
	s.carry(j)
	return s
}

// carry carries the run out in an engine of its own, as a process does.
func (s *simulation) carry(j *journal.Journal) {
	o := s.options
	o.Journal = j
	e, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.e = e
	ctx, cancel := context.WithCancel(s.t.Context())
	s.stop = cancel
	go func() {
		run, _ := e.Run(ctx)
		_ = j.Close()
		s.ended <- run
	}()
	s.t.Cleanup(func() {
		cancel()
		synctest.Wait()
	})
}

// again is another process that goes on with the run.
func (s *simulation) again() {
	s.t.Helper()
	s.stop()
	<-s.ended
	j, err := journal.Open(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.carry(j)
}

// pass lets time pass.
func (s *simulation) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *simulation) want(phase journal.Phase, reason string) {
	s.t.Helper()
	if v := s.e.View(); v.Phase != phase || reason != "" && v.Reason != reason {
		s.t.Fatalf("the run is %s (%s: %s), want %s (%s)", v.Phase, v.Reason, v.Message, phase, reason)
	}
}

func (s *simulation) order(verb journal.Verb) {
	s.t.Helper()
	s.give(verb)
	s.pass(5 * time.Second)
}

// give lays an order down.
func (s *simulation) give(verb journal.Verb) {
	s.t.Helper()
	if err := journal.Give(s.dir, journal.Order{Run: "run-1", Verb: verb, By: "a test", At: time.Now()}); err != nil {
		s.t.Fatal(err)
	}
}

func TestStepsWaitForTheBake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.pass(4 * time.Minute)
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it within the first bake", n)
		}
		s.pass(2 * time.Minute)
		if n := s.clusters["a"].exposed(); n != 3 {
			t.Errorf("%d nodes have it after it", n)
		}
		s.pass(20 * time.Minute)
		s.want(journal.Completed, "")
		for uid, times := range s.clusters["a"].deleted {
			if times > 1 {
				t.Errorf("pod %s was deleted %d times", uid, times)
			}
		}
	})
}

// What the plan warns of is said when a run begins, and not by a process that goes on with it.
func TestRisksAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.pass(time.Minute)
		s.again()
		s.pass(time.Minute)
		var risks []string
		for _, event := range s.e.View().Events {
			if event.Reason == "Risk" {
				risks = append(risks, event.Message)
			}
		}
		if len(risks) != 1 || !strings.HasPrefix(risks[0], "High cluster-wide-read of DaemonSet ns/agent, ClusterRoleBinding agent: ") {
			t.Errorf("said: %q", risks)
		}
	})
}

// Every end of a process is in the run's events, but for one that nobody could write.
func TestInterruptedIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.pass(time.Minute)
		s.again()
		s.pass(time.Hour)
		s.want(journal.Completed, "")
		told := reasons(s.e.View())
		if i := slices.Index(told, "Interrupted"); i < 0 || told[i+1] != "Started" || slices.Contains(told[i+1:], "Interrupted") {
			t.Errorf("told: %v", told)
		}
	})
}

// A clock that runs while nothing is known promoted whole fleets (argo-rollouts#3850, ocm#1201).
func TestBakeStandsStillWhileNothingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, func(r *v1alpha1.Rollout) { r.OnUnknown = v1alpha1.OnUnknownWait })
		s.pass(3 * time.Minute)
		s.judge.set(func(j *judge) {
			j.says = func(Exposure) verdict.Finding { return verdict.Finding{Verdict: verdict.Unknown, Reason: "no data"} }
		})
		s.pass(3 * time.Hour)
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it after hours without data", n)
		}
		s.judge.set(func(j *judge) { j.says = nil })
		s.pass(time.Minute)
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it, though the bake is not over", n)
		}
		s.pass(3 * time.Minute)
		if n := s.clusters["a"].exposed(); n != 3 {
			t.Errorf("%d nodes have it after the bake", n)
		}
	})
}

func TestUnknownPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.pass(time.Minute)
		s.judge.set(func(j *judge) {
			j.says = func(Exposure) verdict.Finding { return verdict.Finding{Verdict: verdict.Unknown, Reason: "no data"} }
		})
		s.pass(2 * time.Minute)
		s.want(journal.Paused, "Unknown")
		s.judge.set(func(j *judge) { j.says = nil })
		s.pass(time.Hour)
		s.want(journal.Paused, "Unknown") // a human's to resume
		s.order(journal.Resume)
		s.pass(time.Hour)
		s.want(journal.Completed, "")
	})
}

// What a look says by itself is not nothing: looks that pass and fail in turn have the deadline to come to a verdict.
func TestLooksInTurn(t *testing.T) {
	inTurn := func(n *int) func(Exposure) verdict.Finding {
		return func(Exposure) verdict.Finding {
			f := pass()
			if *n++; *n%2 == 0 {
				f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "slow"
			}
			return f
		}
	}
	begin := func(t *testing.T, change func(*v1alpha1.Rollout)) *simulation {
		s := simulate(t, map[string]int{"a": 9}, change)
		s.pass(time.Minute)
		n := 0
		s.judge.set(func(j *judge) { j.rows, j.says = &verdict.Horizon{}, inTurn(&n) })
		s.pass(9 * time.Minute)
		s.want(journal.Running, "")
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it while there is no verdict", n)
		}
		return s
	}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Rollout)
		then   func(s *simulation)
	}{
		"a row that fails": {then: func(s *simulation) {
			s.judge.set(func(j *judge) {
				j.says = func(Exposure) verdict.Finding {
					return verdict.Finding{Check: "test", Verdict: verdict.Fail, Attributed: true, Reason: "slow", At: time.Now(), Fresh: true}
				}
			})
			s.pass(5 * time.Minute)
			s.want(journal.RolledBack, "")
		}},
		"a row that passes": {then: func(s *simulation) {
			s.judge.set(func(j *judge) { j.says = nil })
			s.pass(2 * time.Hour)
			s.want(journal.Completed, "")
		}},
		"neither": {then: func(s *simulation) {
			s.pass(3 * time.Minute)
			s.want(journal.Paused, "Unknown")
			if why := s.e.View().Message; !strings.Contains(why, "looks in a row came to no verdict, for more than 10m0s: looks: ") {
				s.t.Errorf("it says %q", why)
			}
			s.order(journal.Resume)
			s.pass(5 * time.Minute)
			s.want(journal.Running, "") // it has as long again
		}},
		"neither, and nobody to ask": {
			change: func(r *v1alpha1.Rollout) { r.OnUnknown = v1alpha1.OnUnknownWait },
			then:   func(s *simulation) { s.pass(time.Hour); s.want(journal.Running, "") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tc.then(begin(t, tc.change)) })
		})
	}
}

// What new agents begin with must not come at once from all of the nodes that are there to be measured.
func TestTheFirstNodesComeApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, func(r *v1alpha1.Rollout) {
			r.Nodes.MaxUnavailable, r.Analysis.ConsecutiveLooks = new(intstr.FromInt32(3)), 3
		})
		came := map[int]time.Time{}
		for range 4 * 3600 {
			s.pass(time.Second)
			if n := s.clusters["a"].exposed(); came[n].IsZero() {
				came[n] = time.Now()
			}
		}
		s.want(journal.Completed, "")
		if apart := came[3].Sub(came[2]); apart < 30*time.Second || apart > 2*time.Minute { // three looks of 10 s
			t.Errorf("the second node comes at %v, the third %v later", came[2], apart)
		}
		if !came[4].IsZero() && !came[5].IsZero() {
			t.Error("what comes after them comes one by one as well")
		}
	})
}

// Pods that need minutes are not "nothing known": the deadline bounds them, and nothing else.
func TestSlowPodsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 3}, nil)
		s.clusters["a"].do(func() { s.clusters["a"].takes = 8 * time.Minute })
		s.judge.set(func(j *judge) {
			j.says = func(e Exposure) verdict.Finding {
				f := pass()
				if len(e.Exposed) > 0 && len(e.Exposed)+1 > e.Planned && time.Since(e.Since) < 8*time.Minute {
					f.Verdict, f.Reason = verdict.Unknown, "its pod is not ready yet"
				}
				return f
			}
		})
		s.pass(3 * time.Hour)
		s.want(journal.Completed, "")
	})
}

func TestProgressDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.clusters["a"].do(func() { s.clusters["a"].takes = time.Hour })
		s.pass(9 * time.Minute)
		s.want(journal.Running, "")
		s.pass(2 * time.Minute)
		if v := s.e.View(); v.Phase != journal.RollingBack && v.Phase != journal.RolledBack {
			t.Errorf("after the deadline the run is %s", v.Phase)
		}
		s.pass(2 * time.Minute)
		s.want(journal.RolledBack, "")
		if n := s.clusters["a"].exposed(); n != 0 {
			t.Errorf("%d nodes have it still", n)
		}
	})
}

func TestLeaksPauseAndAreAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 20}, nil)
		s.pass(time.Minute)
		c := s.clusters["a"]
		c.do(func() {
			for i := range 3 { // new nodes: they take the template in force
				c.nodes[fmt.Sprint("new-", i)] = &simulatedPod{uid: fmt.Sprint("new-", i), revision: "new", since: time.Now()}
			}
		})
		s.pass(time.Minute)
		s.want(journal.Paused, "Leaked")
		// Resumed while nobody carries it out: what the next process sees is accepted, and by the one after it too.
		s.stop()
		<-s.ended
		s.ended <- journal.Run{}
		s.give(journal.Resume)
		for range 2 {
			s.again()
			s.pass(time.Minute)
			s.want(journal.Running, "")
		}
		s.pass(2 * time.Hour)
		s.want(journal.Completed, "")
		if n := c.exposed(); n != 23 {
			t.Errorf("%d of 23 nodes have it", n)
		}
	})
}

// A measurement of minutes is beside the looks: harm that shows meanwhile is acted on.
func TestHarmIsSeenWhileAStepIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.judge.set(func(j *judge) { j.takes = 30 * time.Minute })
		s.pass(40 * time.Minute) // the first half hour is without the change
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it while the first is measured", n)
		}
		s.judge.set(func(j *judge) {
			j.says = func(Exposure) verdict.Finding {
				return verdict.Finding{Check: "workload.ready", Verdict: verdict.Fail, Attributed: true, Reason: "ill"}
			}
		})
		s.pass(2 * time.Minute)
		s.want(journal.RolledBack, "")
	})
}

// A finished cluster can still be condemned while the run is under way, by the slow verdict.
func TestFinishedClustersAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 3, "b": 27}, nil)
		s.pass(20 * time.Minute)
		if v := s.e.View(); v.Stages[0].Legs[0].Cluster != "a" || v.Stages[0].Legs[0].Phase != journal.Completed {
			t.Fatalf("the small cluster is not done: %+v", v.Stages[0].Legs)
		}
		s.judge.set(func(j *judge) {
			j.says = func(e Exposure) verdict.Finding {
				f := pass()
				if e.Cluster == "a" {
					f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "memory grows"
				}
				return f
			}
		})
		s.pass(20 * time.Minute)
		s.want(journal.RolledBack, "")
		if a, b := s.clusters["a"].exposed(), s.clusters["b"].exposed(); a+b > 0 {
			t.Errorf("%d and %d nodes have it still", a, b)
		}
	})
}

// Nothing is done when what must be written down first cannot be.
func TestNothingMovesWithoutAJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, nil)
		s.pass(time.Minute)
		if err := s.e.o.Journal.Close(); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Hour)
		if n := s.clusters["a"].exposed(); n != 1 {
			t.Errorf("%d nodes have it", n)
		}
		select {
		case <-s.ended:
		default:
			t.Error("the engine goes on")
		}
	})
}

// At most maxConcurrency clusters of a stage are under way.
func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		two := intstr.FromInt32(2)
		s := simulate(t, map[string]int{"a": 9, "b": 9, "c": 9}, func(r *v1alpha1.Rollout) { r.Stages[0].MaxConcurrency = &two })
		s.pass(time.Minute)
		var under []string
		for name, c := range s.clusters {
			if c.exposed() > 0 {
				under = append(under, name)
			}
		}
		if slices.Sort(under); len(under) != 2 {
			t.Errorf("under way are %v", under)
		}
		s.pass(3 * time.Hour)
		s.want(journal.Completed, "")
	})
}
