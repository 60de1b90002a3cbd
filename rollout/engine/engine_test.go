package engine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/fence"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/target/daemonset"
	"github.com/seakeep/seakeep/rollout/verdict"
	"github.com/seakeep/seakeep/rollout/way"
)

const one, two, three = "registry.test/agent:1", "registry.test/agent:2", "registry.test/agent:3"

// judge is an Analyst, and a Growth, that says what the test tells it to.
type judge struct {
	sync.Mutex
	says  func(e Exposure) verdict.Finding
	grows func(cluster string, nodes int) verdict.Finding
	// rows, when it is set, is what makes verdicts of looks in a row, three of them.
	rows *verdict.Horizon
	// takes is how long a measurement takes.
	takes time.Duration
	// saw is the most nodes seen exposed, by cluster; observed what Growth was told.
	saw      map[string]int
	observed []string
}

func (j *judge) set(f func(j *judge)) {
	j.Lock()
	defer j.Unlock()
	f(j)
}

func pass() verdict.Finding {
	return verdict.Finding{Check: "test", Verdict: verdict.Pass, Reason: "well", At: time.Now(), Fresh: true}
}

func (j *judge) Look(_ context.Context, e Exposure) (verdict.Look, error) {
	j.Lock()
	defer j.Unlock()
	j.saw[e.Cluster] = max(j.saw[e.Cluster], len(e.Exposed))
	f := pass()
	if j.says != nil {
		f = j.says(e)
	}
	look := verdict.Of(time.Now(), f)
	if j.rows != nil {
		return j.rows.Next(look, 3), nil
	}
	return look, nil
}

func (j *judge) Observe(ctx context.Context, e Exposure) error {
	j.Lock()
	takes := j.takes
	j.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
	}
	j.Lock()
	defer j.Unlock()
	j.observed = append(j.observed, fmt.Sprintf("%s %s %d", e.Stage, e.Cluster, len(e.Exposed)))
	return nil
}

func (j *judge) May(_ context.Context, cluster string, nodes int) (verdict.Finding, error) {
	j.Lock()
	defer j.Unlock()
	if j.grows != nil {
		return j.grows(cluster, nodes), nil
	}
	return pass(), nil
}

// rig is a fleet of labs with one DaemonSet, and a rollout of it.
type rig struct {
	t       *testing.T
	name    string
	clients map[string]*kubernetes.Clientset
	dir     string
	judge   *judge
	rungs   []jail.Rung
}

const namespace = "telemetry"

var sizes = map[string]int{"small": 4, "large": 7}

func newRig(t *testing.T, name string, clients map[string]*kubernetes.Clientset) *rig {
	r := &rig{t: t, name: name, clients: clients, dir: t.TempDir(), judge: &judge{saw: map[string]int{}}}
	for cluster, client := range clients {
		rollouttest.DaemonSet(t, client, namespace, name, sizes[cluster])
	}
	return r
}

func (r *rig) rollout(change func(*v1alpha1.Rollout)) *v1alpha1.Rollout {
	stage := func(name string) v1alpha1.RolloutStage {
		return v1alpha1.RolloutStage{Name: name, LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"stage": name}}}
	}
	second := &metav1.Duration{Duration: time.Second}
	rollout := &v1alpha1.Rollout{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRollout}, Name: r.name,
		RolloutSpec: v1alpha1.RolloutSpec{
			Change: v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{
				Namespace: namespace, Name: r.name, Patch: rollouttest.Image(two),
			}}},
			Stages: []v1alpha1.RolloutStage{stage("staging"), stage("production")}, Interval: second,
			Bake:      v1alpha1.RolloutBake{MinDuration: second, DetectionWindow: second, Factor: 1},
			Analysis:  v1alpha1.RolloutAnalysis{ConsecutiveLooks: 1},
			OnFailure: v1alpha1.RolloutLadder{Rungs: []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungRevert}}},
		},
	}
	if change != nil {
		change(rollout)
	}
	rollout.SetDefaults()
	if errs := rollout.Validate(); len(errs) > 0 {
		r.t.Fatal(errs.ToAggregate())
	}
	return rollout
}

func (r *rig) target(cluster, run string, rollout *v1alpha1.Rollout) *daemonset.Target {
	return &daemonset.Target{Cluster: cluster, Client: r.clients[cluster], Change: *rollout.Change.DaemonSet, Run: run}
}

func (r *rig) log() *slog.Logger { return slog.New(slog.NewTextHandler(r.t.Output(), nil)) }

// start plans a run, or finds the one that is under way, and makes an engine for it.
func (r *rig) start(rollout *v1alpha1.Rollout, holder string) (*Engine, *journal.Journal) {
	r.t.Helper()
	j, err := journal.Open(r.dir)
	r.must(err)
	under, err := Unfinished(j, rollout)
	r.must(err)
	id := NewRunID(rollout.Name, time.Now())
	if under != nil {
		id = under.ID
	} else {
		members := map[string]Member{}
		for cluster := range r.clients {
			stage := map[string]string{"small": "staging", "large": "production"}[cluster]
			members[cluster] = Member{Labels: map[string]string{"stage": stage}, Target: r.target(cluster, id, rollout)}
		}
		p, orders, err := Plan(r.t.Context(), rollout, id, members)
		r.must(err)
		r.must(Record(j, rollout, nil, "", p, orders))
	}
	clusters := map[string]Cluster{}
	for cluster := range r.clients {
		clusters[cluster] = Cluster{
			Target: r.target(cluster, id, rollout),
			Fence: &fence.Fence{
				Client: r.clients[cluster], Namespace: "kube-system", Name: "seakeep-rollout-" + r.name, FieldManager: target.FieldManager,
				Holder: holder, Length: 5 * time.Second, Log: r.log(),
			},
			Prove: func(ctx context.Context, rights []authorizationv1.ResourceAttributes) error {
				return way.Prove(ctx, r.clients[cluster], "kubeconfig", rights)
			},
			Rungs: r.rungs,
		}
	}
	e, err := New(Options{Journal: j, Run: id, Clusters: clusters, Analyst: r.judge, Growth: r.judge, Every: 200 * time.Millisecond, Unreachable: 8 * time.Second, Log: r.log()})
	r.must(err)
	r.must(e.Preflight(r.t.Context()))
	return e, j
}

// run carries a rollout out, and returns its end.
func (r *rig) run(rollout *v1alpha1.Rollout) journal.Run {
	r.t.Helper()
	e, j := r.start(rollout, "one")
	defer j.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	defer cancel()
	run, err := e.Run(ctx)
	if err != nil {
		r.t.Errorf("run ended with %v: %+v", err, e.View().Events)
	}
	return run
}

// background carries a rollout out until the test ends or stop is called.
func (r *rig) background(rollout *v1alpha1.Rollout, holder string) (e *Engine, stop func()) {
	r.t.Helper()
	e, j := r.start(rollout, holder)
	return e, r.carry(e, j)
}

// carry carries a run out until the test ends or stop is called.
func (r *rig) carry(e *Engine, j *journal.Journal) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = e.Run(ctx) // what became of it is looked at
	}()
	stop = func() {
		cancel()
		<-ended
		_ = j.Close()
	}
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wait(what string, e *Engine, is func(v View) bool) {
	r.t.Helper()
	testkit.Within(r.t, what, time.Minute, func() bool { return is(e.View()) })
}

func (r *rig) order(e *Engine, verb journal.Verb) {
	r.t.Helper()
	r.must(journal.Give(r.dir, journal.Order{Run: e.o.Run, Verb: verb, By: "a test", At: time.Now()}))
}

func (r *rig) images(cluster string) map[string]int {
	return rollouttest.Images(r.t, r.clients[cluster], namespace, r.name)
}

func (r *rig) wantImages(want map[string]map[string]int) {
	r.t.Helper()
	for cluster, images := range want {
		testkit.Within(r.t, fmt.Sprintf("%s runs %v", cluster, images), 20*time.Second, func() bool { return cmp.Equal(images, r.images(cluster)) })
	}
}

// left asserts that the DaemonSets are as they were before any run, but for their templates.
func (r *rig) left() {
	r.t.Helper()
	for cluster, client := range r.clients {
		testkit.Within(r.t, cluster+" is as it was before the run", 20*time.Second, func() bool {
			ds, err := client.AppsV1().DaemonSets(namespace).Get(r.t.Context(), r.name, metav1.GetOptions{})
			r.must(err)
			return ds.Spec.UpdateStrategy.Type == "RollingUpdate" && ds.Annotations[target.RunAnnotation] == ""
		})
	}
}

func reasons(v View) []string {
	var all []string
	for _, e := range v.Events {
		all = append(all, e.Reason)
	}
	return all
}

func TestEngineOnLabs(t *testing.T) {
	clients := map[string]*kubernetes.Clientset{}
	labs := map[string]*lab.Lab{}
	for cluster, nodes := range sizes {
		labs[cluster] = lab.Start(t, lab.Options{Nodes: nodes})
		clients[cluster] = rollouttest.Client(t, labs[cluster])
	}

	t.Run("a good change completes", func(t *testing.T) {
		r := newRig(t, "good", clients)
		run := r.run(r.rollout(nil))
		if run.Phase != journal.Completed {
			t.Errorf("ended as %s: %s", run.Phase, run.Message)
		}
		r.wantImages(map[string]map[string]int{"small": {two: 4}, "large": {two: 7}})
		r.left()
		want := []string{
			"staging small 0", "staging small 1", "staging small 3", "staging small 4",
			"largest-cluster-probe large 0", "largest-cluster-probe large 1", "largest-cluster-probe large 3", "production large 7",
		}
		if diff := cmp.Diff(want, r.judge.observed); diff != "" {
			t.Errorf("observed (-want +got):\n%s", diff)
		}
	})

	t.Run("a bad change is stopped and taken back", func(t *testing.T) {
		r := newRig(t, "bad", clients)
		r.judge.says = func(e Exposure) verdict.Finding {
			f := pass()
			if e.Cluster == "large" && len(e.Exposed) >= 3 {
				f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "3 nodes are ill"
			}
			return f
		}
		run := r.run(r.rollout(nil))
		if run.Phase != journal.RolledBack || !cmp.Equal(run.Failures, []string{"large"}) || !strings.Contains(run.Message, "3 nodes are ill") {
			t.Errorf("ended as %s: %s (%v)", run.Phase, run.Message, run.Failures)
		}
		r.wantImages(map[string]map[string]int{"small": {one: 4}, "large": {one: 7}})
		r.left()
		if r.judge.saw["large"] != 3 {
			t.Errorf("%d nodes of the large cluster were exposed, want 3", r.judge.saw["large"])
		}
	})

	t.Run("what would cost too much is stopped at three nodes", func(t *testing.T) {
		r := newRig(t, "costly", clients)
		r.judge.grows = func(cluster string, nodes int) verdict.Finding {
			f := pass()
			f.Check = "scaleGate"
			switch {
			case cluster == "large" && len(r.judge.observed) < 7:
				f.Verdict, f.Reason = verdict.Unknown, "too few steps"
			case cluster == "large" && nodes > 3:
				f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "at 7 nodes it would cost 12 seats of 10"
			}
			return f
		}
		run := r.run(r.rollout(nil))
		if run.Phase != journal.RolledBack || !strings.Contains(run.Message, "12 seats of 10") || r.judge.saw["large"] != 3 {
			t.Errorf("ended as %s with %d exposed: %s", run.Phase, r.judge.saw["large"], run.Message)
		}
		r.wantImages(map[string]map[string]int{"small": {one: 4}, "large": {one: 7}})
	})

	t.Run("Unknown never advances", func(t *testing.T) {
		r := newRig(t, "unknown", clients)
		r.judge.says = func(Exposure) verdict.Finding {
			f := pass()
			f.Verdict, f.Reason = verdict.Unknown, "no data"
			return f
		}
		e, _ := r.background(r.rollout(nil), "one")
		r.wait("it pauses", e, func(v View) bool { return v.Phase == journal.Paused && v.Reason == "Unknown" })
		r.wantImages(map[string]map[string]int{"small": {one: 4}, "large": {one: 7}})
		r.judge.set(func(j *judge) { j.says = nil })
		r.order(e, journal.Resume)
		r.wait("a node has it", e, func(v View) bool { return len(v.Stages[0].Legs[0].Exposed) > 0 })
		// While nothing is known the bake's clock stands still.
		r.judge.set(func(j *judge) {
			j.says = func(Exposure) verdict.Finding {
				f := pass()
				f.Verdict, f.Reason = verdict.Unknown, "no data"
				return f
			}
		})
		r.wait("it pauses again", e, func(v View) bool { return v.Phase == journal.Paused && v.Reason == "Unknown" })
		if n := r.images("small")[two]; n == 0 || n > 3 {
			t.Errorf("%d nodes have it", n)
		}
		r.order(e, journal.Rollback)
		r.wait("it is taken back", e, func(v View) bool { return v.Phase == journal.RolledBack })
		r.wantImages(map[string]map[string]int{"small": {one: 4}})
	})

	t.Run("a harm that is not shown to be the change's is left to a human", func(t *testing.T) {
		r := newRig(t, "unattributed", clients)
		rung := &recorder{name: "apf", reduces: true}
		other := &recorder{name: "rbac"}
		r.rungs = []jail.Rung{rung, other}
		r.judge.says = func(e Exposure) verdict.Finding {
			f := pass()
			if len(e.Exposed) > 0 {
				f.Verdict, f.Check, f.Reason = verdict.Fail, "controlPlane.latency", "GETs take 9 s"
			}
			return f
		}
		e, _ := r.background(r.rollout(func(ro *v1alpha1.Rollout) {
			ro.OnFailure.Rungs = []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungAPF}, {Name: v1alpha1.RungRBAC}, {Name: v1alpha1.RungRevert}}
			ro.OnFailure.EffectWithin = &metav1.Duration{Duration: time.Second}
		}), "one")
		r.wait("a human is needed", e, func(v View) bool { return v.Phase == journal.Paused && v.Reason == "NeedsHuman" })
		testkit.Within(t, "load is taken away", 20*time.Second, func() bool { return cmp.Equal(rung.did(), []string{"prove", "prove", "do"}) })
		r.wantImages(map[string]map[string]int{"small": {one: 3, two: 1}})
		r.order(e, journal.Rollback)
		r.wait("it is taken back", e, func(v View) bool { return v.Phase == journal.RolledBack })
		r.wantImages(map[string]map[string]int{"small": {one: 4}})
		if did := rung.did(); did[len(did)-1] != "undo" {
			t.Errorf("the rung is not taken back: %v", did)
		}
	})

	t.Run("one failure within the budget", func(t *testing.T) {
		r := newRig(t, "budget", clients)
		r.judge.says = func(e Exposure) verdict.Finding {
			f := pass()
			if e.Cluster == "large" && len(e.Exposed) > 0 {
				f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "ill"
			}
			return f
		}
		e, _ := r.background(r.rollout(func(ro *v1alpha1.Rollout) { n := intstr.FromInt32(1); ro.MaxFailures = &n }), "one")
		r.wait("it stops at a stage that showed nothing", e, func(v View) bool { return v.Phase == journal.Paused && v.Reason == "StageFailed" })
		r.order(e, journal.Resume)
		r.wait("it ends", e, func(v View) bool { return v.Phase == journal.Completed && v.Reason == "CompletedWithFailures" })
		r.wantImages(map[string]map[string]int{"small": {two: 4}, "large": {one: 7}})
		r.left()
	})

	t.Run("a second instance is fenced out", func(t *testing.T) {
		r := newRig(t, "fenced", clients)
		other := &rig{t: t, name: r.name, clients: clients, dir: t.TempDir(), judge: &judge{saw: map[string]int{}}}
		// Both are planned before either has begun.
		first, one := r.start(r.rollout(nil), "one")
		second, two := other.start(other.rollout(nil), "two")
		r.carry(first, one)
		other.carry(second, two)
		r.wait("one of them has begun", first, func(v View) bool {
			return slices.Contains(reasons(v), "Began") || slices.Contains(reasons(second.View()), "Began")
		})
		winner, loser := first, second
		if slices.Contains(reasons(second.View()), "Began") {
			winner, loser = second, first
		}
		r.wait("the winner is half way", winner, func(v View) bool { return v.Stages[0].Legs[0].Phase == journal.Completed })
		if seen := reasons(loser.View()); slices.Contains(seen, "Began") || slices.Contains(seen, "Step") {
			t.Errorf("two engines write: %v", seen)
		}
		r.wait("the winner ends", winner, func(v View) bool { return v.Phase == journal.Completed })
		r.wantImages(map[string]map[string]int{"small": {"registry.test/agent:2": 4}, "large": {"registry.test/agent:2": 7}})
		r.wait("the loser finds nothing left to do", loser, func(v View) bool {
			return v.Phase == journal.Paused && strings.Contains(v.Message, "nothing to roll out")
		})
	})

	t.Run("a cluster that is down is skipped, and goes on when it is back", func(t *testing.T) {
		r := newRig(t, "down", clients)
		held := true
		r.judge.says = func(e Exposure) verdict.Finding {
			f := pass()
			if e.Cluster == "large" && held && len(e.Exposed) > 0 {
				f.Verdict, f.Reason = verdict.Unknown, "held"
			}
			return f
		}
		e, _ := r.background(r.rollout(func(ro *v1alpha1.Rollout) {
			n := intstr.FromInt32(1)
			ro.MaxSkipped, ro.OnUnknown = &n, v1alpha1.OnUnknownWait
			ro.Stages = ro.Stages[:1]
			ro.Stages[0].LabelSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "stage", Operator: "Exists"}}}
			both := intstr.FromInt32(2)
			ro.Stages[0].MaxConcurrency = &both
		}), "one")
		leg := func(v View, cluster string) LegView {
			i := slices.IndexFunc(v.Stages[0].Legs, func(l LegView) bool { return l.Cluster == cluster })
			return v.Stages[0].Legs[i]
		}
		r.wait("one node of the large cluster has it", e, func(v View) bool { return len(leg(v, "large").Exposed) == 1 })
		server, _ := labs["large"].Process(lab.KindAPIServer)
		r.must(server.Stop(t.Context()))
		r.wait("it is skipped", e, func(v View) bool { return leg(v, "large").Skipped != "" })
		r.wait("the other one is done", e, func(v View) bool { return leg(v, "small").Phase == journal.Completed })
		if v := e.View(); v.Phase != journal.Running {
			t.Errorf("the run is %s: %s", v.Phase, v.Message)
		}
		r.must(server.Start(t.Context()))
		r.judge.set(func(*judge) { held = false })
		r.wait("it ends", e, func(v View) bool { return v.Phase == journal.Completed })
		if all := reasons(e.View()); !slices.Contains(all, "Returned") || !slices.Contains(all, "Frozen") {
			t.Errorf("told: %v", all)
		}
		r.wantImages(map[string]map[string]int{"small": {two: 4}, "large": {two: 7}})
		r.left()
	})

	t.Run("the object is deleted in the middle", func(t *testing.T) {
		r := newRig(t, "gone", clients)
		e, _ := r.background(r.rollout(nil), "one")
		r.wait("a node has it", e, func(v View) bool { return len(v.Stages[0].Legs[0].Exposed) > 0 })
		r.must(clients["small"].AppsV1().DaemonSets(namespace).Delete(t.Context(), r.name, metav1.DeleteOptions{}))
		r.wait("it stops", e, func(v View) bool { return v.Phase == journal.Paused && v.Reason == "Gone" })
		r.order(e, journal.Rollback)
		r.wait("nothing is left to take back", e, func(v View) bool { return v.Phase == journal.RolledBack })
		r.wantImages(map[string]map[string]int{"large": {one: 7}})
	})

	t.Run("the namespace is deleted in the middle", func(t *testing.T) {
		lost := "lost"
		r := &rig{t: t, name: "lost", clients: map[string]*kubernetes.Clientset{"small": clients["small"]}, dir: t.TempDir(), judge: &judge{saw: map[string]int{}}}
		rollouttest.DaemonSet(t, clients["small"], lost, r.name, sizes["small"])
		e, j := r.start(r.rollout(func(ro *v1alpha1.Rollout) { ro.Stages, ro.Change.DaemonSet.Namespace = ro.Stages[:1], lost }), "one")
		ended := make(chan journal.Run, 1)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			run, _ := e.Run(ctx) // how it ended is looked at
			ended <- run
		}()
		t.Cleanup(func() {
			cancel()
			<-ended
			_ = j.Close()
		})
		r.wait("a node has it", e, func(v View) bool { return len(v.Stages[0].Legs[0].Exposed) > 0 })
		r.must(clients["small"].CoreV1().Namespaces().Delete(t.Context(), lost, metav1.DeleteOptions{}))
		r.wait("it stops, and says what was deleted", e, func(v View) bool {
			return v.Phase == journal.Paused && v.Reason == "Gone" && strings.Contains(v.Message, "cluster small: DaemonSet lost/lost")
		})
		r.order(e, journal.Rollback)
		testkit.Within(t, "the way back ends", time.Minute, func() bool { return len(ended) == 1 })
		run := <-ended
		ended <- run
		if run.Phase != journal.RolledBack || slices.Contains(reasons(e.View()), "Reverted") {
			t.Errorf("ended as %s: %s (%v)", run.Phase, run.Message, reasons(e.View()))
		}
	})

	// What is deleted is made again for the tests after it.
	t.Run("nodes are deleted in the middle", func(t *testing.T) {
		client := clients["small"]
		r := newRig(t, "fewer", map[string]*kubernetes.Clientset{"small": client})
		held := true
		r.judge.says = func(e Exposure) verdict.Finding {
			f := pass()
			if held && len(e.Exposed) > 0 {
				f.Verdict, f.Reason = verdict.Unknown, "held"
			}
			return f
		}
		e, _ := r.background(r.rollout(func(ro *v1alpha1.Rollout) { ro.Stages, ro.OnUnknown = ro.Stages[:1], v1alpha1.OnUnknownWait }), "one")
		r.wait("the first node has it", e, func(v View) bool { return len(v.Stages[0].Legs[0].Exposed) == 1 })
		order := e.s.Orders["small"]
		if exposed := e.View().Stages[0].Legs[0].Exposed; !cmp.Equal(exposed, order[:1]) {
			t.Fatalf("%v has it, the order is %v", exposed, order)
		}
		for _, name := range order[:2] { // one that has it, and the next one
			node, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			r.must(err)
			r.must(client.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}))
			t.Cleanup(func() {
				node.ResourceVersion, node.UID = "", ""
				if _, err := client.CoreV1().Nodes().Create(context.WithoutCancel(t.Context()), node, metav1.CreateOptions{}); err != nil {
					t.Errorf("making node %s again: %v", name, err)
				}
			})
		}
		r.wait("no node has it", e, func(v View) bool { return len(v.Stages[0].Legs[0].Exposed) == 0 })
		r.judge.set(func(*judge) { held = false })
		r.wait("it ends", e, func(v View) bool { return v.Phase == journal.Completed })
		said := func(event journal.Event) bool {
			return event.Reason == "Completed" && event.Cluster == "small" && strings.Contains(event.Message, "2 of 4 nodes run the change")
		}
		if v := e.View(); !slices.ContainsFunc(v.Events, said) {
			t.Errorf("that two nodes are gone is not said: %+v", v.Events)
		}
		pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + r.name})
		r.must(err)
		images := map[string]string{}
		for _, p := range pods.Items {
			if !slices.Contains(order[:2], p.Spec.NodeName) {
				images[p.Spec.NodeName] = p.Spec.Containers[0].Image
			}
		}
		if diff := cmp.Diff(map[string]string{order[2]: two, order[3]: two}, images); diff != "" {
			t.Errorf("on the other nodes (-want +got):\n%s", diff)
		}
	})

	t.Run("orders, tasks, and somebody else", func(t *testing.T) {
		r := newRig(t, "orders", clients)
		rollout := r.rollout(func(ro *v1alpha1.Rollout) {
			second := &metav1.Duration{Duration: time.Second}
			ro.Stages[0].BeforeStageTasks = []v1alpha1.RolloutTask{{Type: v1alpha1.TaskApproval}}
			ro.Stages[0].AfterStageTasks = []v1alpha1.RolloutTask{{Type: v1alpha1.TaskTimedWait, WaitTime: second}, {Type: v1alpha1.TaskAnalysis, WaitTime: second}}
		})
		e, stop := r.background(rollout, "one")
		r.wait("it waits for approval", e, func(v View) bool { return slices.Contains(reasons(v), "TaskStarted") })
		r.order(e, journal.Pause)
		r.wait("it is paused", e, func(v View) bool { return v.Phase == journal.Paused })
		r.order(e, journal.Approve)
		r.order(e, journal.Resume)
		r.wait("the first step is held", e, func(v View) bool { return v.Stages[0].Legs[0].Phase == journal.Baking })
		// Another engine, over another folder, is fenced out; the first one's death lets it in only to find its own plan.
		stop()
		changed := r.rollout(func(ro *v1alpha1.Rollout) { ro.Change.DaemonSet.Patch = rollouttest.Image(three) })
		j, err := journal.Open(r.dir)
		r.must(err)
		if _, err := Unfinished(j, changed); err == nil || !strings.Contains(err.Error(), "does something else") {
			t.Errorf("a changed file is mixed into the run: %v", err)
		}
		r.must(j.Close())
		e, _ = r.background(rollout, "two")
		r.wait("staging is done", e, func(v View) bool { return v.Stages[0].Legs[0].Phase == journal.Completed })
		r.wait("the largest has it", e, func(v View) bool { return len(v.Stages[1].Legs[0].Exposed) > 0 })
		_, err = clients["large"].AppsV1().DaemonSets(namespace).Patch(t.Context(), r.name, "application/strategic-merge-patch+json",
			[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"`+three+`"}]}}}}`), metav1.PatchOptions{FieldManager: "an-admin"})
		r.must(err)
		r.wait("it stops", e, func(v View) bool {
			return v.Phase == journal.Paused && v.Reason == "ForeignChange" && strings.Contains(v.Message, "an-admin")
		})
		r.order(e, journal.Abort)
		r.wait("it is over", e, func(v View) bool { return v.Phase == journal.Aborted })
	})
}

// recorder is a rung that writes down what is asked of it.
type recorder struct {
	name    string
	reduces bool
	mu      sync.Mutex
	calls   []string
}

func (r *recorder) did() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

func (r *recorder) note(what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, what)
	return nil
}

func (r *recorder) Name() string                                { return r.name }
func (r *recorder) HitsStable() bool                            { return false }
func (r *recorder) ReducesLoad() bool                           { return r.reduces }
func (r *recorder) Prove(context.Context, jail.Component) error { return r.note("prove") }
func (r *recorder) Undo(context.Context, jail.Component) error  { return r.note("undo") }
func (r *recorder) Do(_ context.Context, c jail.Component, reason string, length time.Duration) error {
	if c.ServiceAccount != namespace+"/unattributed" || reason == "" || length <= 0 {
		return fmt.Errorf("asked with %+v, %q, %v", c, reason, length)
	}
	return r.note("do")
}
