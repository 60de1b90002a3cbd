package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func cluster(name, stage string, nodes int) Cluster {
	c := Cluster{Name: name, Labels: map[string]string{"stage": stage, "order": fmt.Sprint(1000 - nodes)}}
	for i := range nodes {
		c.Nodes = append(c.Nodes, Node{Name: fmt.Sprintf("%s-%04d", name, i), Zone: "zone-" + string(rune('a'+i%3))})
	}
	return c
}

func stage(name string) v1alpha1.RolloutStage {
	return v1alpha1.RolloutStage{Name: name, LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"stage": name}}}
}

// rollout is a valid one, as a file would give it.
func rollout(change func(*v1alpha1.Rollout)) *v1alpha1.Rollout {
	r := &v1alpha1.Rollout{Name: "telemetry", RolloutSpec: v1alpha1.RolloutSpec{
		Change: v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{
			Namespace: "telemetry", Name: "telemetry", Patch: map[string]any{"spec": map[string]any{}},
		}}},
		Stages: []v1alpha1.RolloutStage{stage("staging"), stage("prod")},
	}}
	if change != nil {
		change(r)
	}
	r.SetDefaults()
	return r
}

func steps(replicas ...any) []v1alpha1.RolloutStep {
	var all []v1alpha1.RolloutStep
	for _, r := range replicas {
		v := intstr.FromString(fmt.Sprint(r))
		if n, ok := r.(int); ok {
			v = intstr.FromInt32(int32(n))
		}
		all = append(all, v1alpha1.RolloutStep{Replicas: v})
	}
	return all
}

var small = []Cluster{cluster("staging", "staging", 5), cluster("big", "prod", 300), cluster("mid", "prod", 50)}

func TestMake(t *testing.T) {
	nodes := func(s Stage) map[string][]int {
		m := map[string][]int{}
		for _, l := range s.Legs {
			for _, step := range l.Steps {
				m[l.Cluster] = append(m[l.Cluster], step.Nodes)
			}
		}
		return m
	}
	tests := map[string]struct {
		change func(*v1alpha1.Rollout)
		want   []string
	}{
		"by itself": {want: []string{
			"staging 1: staging [1 3 5]", "largest-cluster-probe 1: big [1 3]", "prod 1: mid [1 3 9 27 50] big [9 27 81 243 300]",
		}},
		"no probe": {
			change: func(r *v1alpha1.Rollout) { r.LargestClusterProbe.Disabled = true },
			want:   []string{"staging 1: staging [1 3 5]", "prod 1: mid [1 3 9 27 50] big [1 3 9 27 81 243 300]"},
		},
		"sorted by a label, half at once": {
			change: func(r *v1alpha1.Rollout) {
				half := intstr.FromString("50%")
				r.Stages[1].SortingLabelKey, r.Stages[1].MaxConcurrency = "order", &half
				r.LargestClusterProbe.Disabled = true
			},
			want: []string{"staging 1: staging [1 3 5]", "prod 1: big [1 3 9 27 81 243 300] mid [1 3 9 27 50]"},
		},
		"steps of a stage, small clusters skip what they have": {
			change: func(r *v1alpha1.Rollout) {
				r.Stages[1].Steps = steps(2, 6, "5%", "15%", "45%", "100%")
				r.LargestClusterProbe.Disabled = true
			},
			want: []string{"staging 1: staging [1 3 5]", "prod 1: mid [2 6 8 23 50] big [2 6 15 45 135 300]"},
		},
		"a Deployment has one step": {
			change: func(r *v1alpha1.Rollout) {
				r.Change.Deployment, r.Change.DaemonSet = &r.Change.DaemonSet.WorkloadChange, nil
			},
			want: []string{"staging 1: staging [5]", "prod 1: mid [50] big [300]"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, orders, errs := Make(rollout(test.change), "run", small)
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			var got []string
			for _, s := range p.Stages {
				line := fmt.Sprintf("%s %d:", s.Name, s.Concurrency)
				for _, l := range s.Legs {
					line += fmt.Sprintf(" %s %v", l.Cluster, nodes(s)[l.Cluster])
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if p.Largest != "big" || len(orders["big"]) != 300 {
				t.Errorf("the largest is %s, its order has %d nodes", p.Largest, len(orders["big"]))
			}
			for _, s := range p.Stages {
				for _, l := range s.Legs {
					if last := l.Steps[len(l.Steps)-1]; last.All == s.Probe {
						t.Errorf("%s on %s ends with %+v", s.Name, l.Cluster, last)
					}
				}
			}
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	all := intstr.FromString("99%")
	three := intstr.FromInt32(3)
	tests := map[string]struct {
		change   func(*v1alpha1.Rollout)
		clusters []Cluster
		want     string
	}{
		"a stage without a cluster": {
			change: func(r *v1alpha1.Rollout) { r.Stages = append(r.Stages, stage("moon")) },
			want:   `stages[2].labelSelector: Invalid value: "stage=moon": selects no cluster of the fleet`,
		},
		"a cluster twice": {
			change: func(r *v1alpha1.Rollout) { r.Stages = append(r.Stages, stage("prod")); r.Stages[2].Name = "again" },
			want:   `stages[2].labelSelector: Invalid value: "stage=prod": selects cluster big, which stage prod selects too`,
		},
		"a cluster without nodes": {
			clusters: append(slices.Clone(small), cluster("empty", "prod", 0)),
			want:     `stages[1].labelSelector: Invalid value: "stage=prod": selects cluster empty, where no node`,
		},
		"growth": {
			change: func(r *v1alpha1.Rollout) { r.Steps = steps(1, 3, "50%", "100%") },
			want:   `steps[2].replicas: Invalid value: "50%": is 150 nodes of cluster big after 3: more than 3 times`,
		},
		"a first step of many": {
			change: func(r *v1alpha1.Rollout) { r.Steps = steps("34%", "100%") },
			want:   `steps[0].replicas: Invalid value: "34%": is 102 nodes of cluster big; the first step must be at most 3`,
		},
		"a budget that is all": {
			change: func(r *v1alpha1.Rollout) { r.MaxFailures = &three },
			want:   `maxFailures: Invalid value: "3": is 3 of the 3 clusters: the rollout could not fail`,
		},
		"no number to sort by": {
			change: func(r *v1alpha1.Rollout) { r.Stages[0].SortingLabelKey = "stage"; r.MaxSkipped = &all },
			want:   `stages[0].sortingLabelKey: Invalid value: "stage": must be a whole number on every cluster; on staging it is "staging"`,
		},
		"a probe after the largest": {
			change: func(r *v1alpha1.Rollout) { r.LargestClusterProbe.AfterStage = "prod" },
			want:   `largestClusterProbe.afterStage: Invalid value: "prod": the largest cluster, big, is in stage prod`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.clusters == nil {
				test.clusters = small
			}
			p, _, errs := Make(rollout(test.change), "run", test.clusters)
			if p != nil || len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
				t.Errorf("got %v, want %s", errs, test.want)
			}
		})
	}
}

// The first nodes stand for all zones, and another run begins with other nodes.
func TestOrder(t *testing.T) {
	var nodes []Node
	for i := range 300 {
		zone := "big"
		if i%10 == 0 {
			zone = "small"
		}
		nodes = append(nodes, Node{Name: fmt.Sprintf("node-%d", i), Zone: zone})
	}
	zones := map[string]string{}
	for _, n := range nodes {
		zones[n.Name] = n.Zone
	}
	first := Order("one", nodes)
	slices.Reverse(nodes)
	if diff := cmp.Diff(first, Order("one", nodes)); diff != "" {
		t.Errorf("the order depends on how the nodes are listed:\n%s", diff)
	}
	for _, k := range []int{20, 50, 100, 200} {
		of := 0
		for _, name := range first[:k] {
			if zones[name] == "small" {
				of++
			}
		}
		if want := k / 10; of < want-1 || of > want+1 {
			t.Errorf("of the first %d nodes %d are in the small zone, want %d", k, of, want)
		}
	}
	second := Order("two", nodes)
	same := 0
	for i := range 100 {
		if slices.Contains(first[:100], second[i]) {
			same++
		}
	}
	if same > 60 || same < 10 {
		t.Errorf("two runs share %d of their first 100 nodes", same)
	}
	seen := map[string]bool{}
	for _, name := range first {
		seen[name] = true
	}
	if len(seen) != 300 {
		t.Errorf("%d nodes are in the order", len(seen))
	}
}

// 300 clusters of 1,000 nodes: one look at all of them is decided within 100 ms, on one core.
func TestDecideIsFast(t *testing.T) {
	routes, seen := fleet(300, 1000)
	best := time.Hour
	for range 3 {
		began := time.Now()
		for i, r := range routes {
			r.Forward(3, seen[i])
		}
		best = min(best, time.Since(began))
	}
	t.Logf("one step of the planner over 300 clusters of 1,000 nodes: %v", best)
	if best > time.Second { // ten times the bound: other tests run beside this one; `make bench-rollout` holds it to 100 ms
		t.Errorf("one step of the planner takes %v", best)
	}
}

// fleet is a fleet in the middle of its rollout.
func fleet(clusters, nodes int) ([]*Route, []Seen) {
	var routes []*Route
	var all []Seen
	for i := range clusters {
		c := cluster(fmt.Sprintf("cluster-%03d", i), "prod", nodes)
		order := Order("run", c.Nodes)
		routes = append(routes, NewRoute(Leg{Cluster: c.Name, Steps: ladder(nodes), MaxUnavailable: 10, MaxLeaked: 50, Nodes: nodes}, order))
		seen := Seen{Update: "new", Stable: "old"}
		for j, name := range order {
			revision := "old"
			if j < 20 {
				revision = "new"
			}
			seen.Nodes = append(seen.Nodes, SeenNode{Name: name, Ready: true, Pods: []SeenPod{{Name: name, UID: name, Revision: revision, Ready: true}}})
		}
		all = append(all, seen)
	}
	return routes, all
}

func BenchmarkForward(b *testing.B) {
	routes, seen := fleet(300, 1000)
	for b.Loop() {
		for i, r := range routes {
			r.Forward(3, seen[i])
		}
	}
}

// What is new of OpenKruise's is made by the names of the nodes, whatever is planned; so it is planned so.
func TestMakeByName(t *testing.T) {
	r := rollout(func(r *v1alpha1.Rollout) {
		r.Change = v1alpha1.RolloutChange{AdvancedDaemonSet: &v1alpha1.AdvancedDaemonSetChange{
			WorkloadChange: v1alpha1.WorkloadChange{Namespace: "telemetry", Name: "telemetry", Template: map[string]any{"spec": map[string]any{}}},
			Install:        &v1alpha1.AdvancedDaemonSetInstall{},
		}}
	})
	_, orders, errs := Make(r, "run-1", small)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if got := orders["big"]; len(got) != 300 || !slices.IsSorted(got) {
		t.Errorf("the order is %v", got)
	}
	r.Change.AdvancedDaemonSet.Install = nil
	if _, orders, _ := Make(r, "run-1", small); slices.IsSorted(orders["big"]) {
		t.Error("what is there already is not mixed")
	}
}
