package v1alpha1

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func validRollout() *Rollout {
	return &Rollout{Name: "telemetry", RolloutSpec: RolloutSpec{
		Change: RolloutChange{DaemonSet: &DaemonSetChange{WorkloadChange: WorkloadChange{Namespace: "telemetry", Name: "agent", Patch: map[string]any{"spec": map[string]any{}}}}},
		Stages: []RolloutStage{{Name: "staging", LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"stage": "staging"}}}},
	}}
}

func TestRolloutDefaults(t *testing.T) {
	r := validRollout()
	r.Change.DaemonSet.Install = &DaemonSetInstall{}
	r.SetDefaults()
	r.SetDefaults()
	if r.MaxFailures.IntValue() != 0 || r.Nodes.MaxUnavailable.IntValue() != 1 || r.Nodes.MaxLeaked.String() != "5%" || r.Stages[0].MaxConcurrency.IntValue() != 1 {
		t.Errorf("defaulted to %+v", r.RolloutSpec)
	}
	if r.ProgressDeadline.Duration != 10*time.Minute || r.OnUnknown != OnUnknownPause || r.ScaleGate.Mode != Enabled || r.Change.DaemonSet.Install.EnrolmentLabel != "seakeep.dev/enrol-agent" {
		t.Errorf("defaulted to %+v", r.RolloutSpec)
	}
	r.Change.DaemonSet.Template, r.Change.DaemonSet.Patch = map[string]any{"spec": map[string]any{}}, nil
	if errs := r.Validate(); len(errs) > 0 {
		t.Errorf("refused: %v", errs.ToAggregate())
	}
}

func TestRolloutRefuses(t *testing.T) {
	count := func(v any) *intstr.IntOrString {
		n := intstr.FromString("")
		switch v := v.(type) {
		case int:
			n = intstr.FromInt32(int32(v))
		case string:
			n = intstr.FromString(v)
		}
		return &n
	}
	steps := func(all ...any) (steps []RolloutStep) {
		for _, v := range all {
			steps = append(steps, RolloutStep{Replicas: *count(v)})
		}
		return steps
	}
	tests := map[string]struct {
		change func(r *Rollout)
		want   string
	}{
		"no change":            {func(r *Rollout) { r.Change = RolloutChange{} }, "change: Required"},
		"two workloads":        {func(r *Rollout) { r.Change.Deployment = &r.Change.DaemonSet.WorkloadChange }, "change: Invalid value: 2: must change one of"},
		"template and patch":   {func(r *Rollout) { r.Change.DaemonSet.Template = map[string]any{"a": 1} }, "change.daemonSet.template: Required"},
		"install with a patch": {func(r *Rollout) { r.Change.DaemonSet.Install = &DaemonSetInstall{} }, "change.daemonSet.template: Required value: a DaemonSet that is new"},
		"an advanced install with a patch": {func(r *Rollout) {
			r.Change = RolloutChange{AdvancedDaemonSet: &AdvancedDaemonSetChange{WorkloadChange: r.Change.DaemonSet.WorkloadChange, Install: &AdvancedDaemonSetInstall{}}}
		}, "change.advancedDaemonSet.template: Required value: a DaemonSet that is new"},
		"an advanced install on some nodes": {func(r *Rollout) {
			r.Change = RolloutChange{AdvancedDaemonSet: &AdvancedDaemonSetChange{WorkloadChange: WorkloadChange{Namespace: "n", Name: "a", Template: map[string]any{"a": 1}}, Install: &AdvancedDaemonSetInstall{}}}
			r.Nodes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, "nodes.selector: Forbidden: OpenKruise makes the pods"},
		"two kinds of DaemonSets": {func(r *Rollout) {
			r.Change.AdvancedDaemonSet = &AdvancedDaemonSetChange{WorkloadChange: r.Change.DaemonSet.WorkloadChange}
		}, "change: Invalid value: 2: must change one of"},
		"a manifest without a name": {func(r *Rollout) { r.Change.Manifests = []map[string]any{{"apiVersion": "v1", "kind": "X"}} }, "change.manifests[0].metadata.name"},
		"no stage":                  {func(r *Rollout) { r.Stages = nil }, "stages: Required"},
		"a stage twice":             {func(r *Rollout) { r.Stages = append(r.Stages, r.Stages[0]) }, `stages[1].name: Duplicate value: "staging"`},
		"an empty selector":         {func(r *Rollout) { r.Stages[0].LabelSelector = metav1.LabelSelector{} }, "stages[0].labelSelector: Required"},
		"a selector that is none": {func(r *Rollout) {
			r.Stages[0].LabelSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}
		}, "stages[0].labelSelector: Invalid"},
		"an empty node selector": {func(r *Rollout) { r.Nodes.Selector = &metav1.LabelSelector{} }, "nodes.selector: Required"},
		"maxSurge":               {func(r *Rollout) { r.Nodes.MaxSurge = count(1) }, "nodes.maxSurge: Forbidden: a DaemonSet under OnDelete ignores it"},
		"nothing may be missing": {func(r *Rollout) { r.Nodes.MaxUnavailable = count(0) }, "nodes.maxUnavailable: Invalid"},
		"more than all":          {func(r *Rollout) { r.Nodes.MaxUnavailable = count("101%") }, "nodes.maxUnavailable: Invalid"},
		"no number":              {func(r *Rollout) { r.MaxFailures = count("some") }, "maxFailures: Invalid value: \"some\": must be a whole number or a share"},
		"all may fail":           {func(r *Rollout) { r.MaxFailures = count("100%") }, "maxFailures: Invalid"},
		"growth":                 {func(r *Rollout) { r.Steps = steps(1, 4, "100%") }, "steps[1].replicas: Invalid value: \"4\": grows by more than 3 times"},
		"a first step of many":   {func(r *Rollout) { r.Steps = steps(4, "100%") }, "steps[0].replicas: Invalid value: \"4\": the first step must be at most 3"},
		"shrinking":              {func(r *Rollout) { r.Stages[0].Steps = steps(3, 2, "100%") }, "stages[0].steps[1].replicas: Invalid value: \"2\": must be more"},
		"not to the end":         {func(r *Rollout) { r.Steps = steps(1, 3) }, "steps[1].replicas: Invalid value: \"3\": the last step must be 100%"},
		"no time to wait":        {func(r *Rollout) { r.Stages[0].AfterStageTasks = []RolloutTask{{Type: TaskTimedWait}} }, "stages[0].afterStageTasks[0].waitTime: Required"},
		"an approval that waits": {func(r *Rollout) {
			r.Stages[0].BeforeStageTasks = []RolloutTask{{Type: TaskApproval, WaitTime: &metav1.Duration{Duration: time.Minute}}}
		}, "stages[0].beforeStageTasks[0].waitTime: Forbidden"},
		"a task nobody knows":       {func(r *Rollout) { r.Stages[0].AfterStageTasks = []RolloutTask{{Type: "Prayer"}} }, "stages[0].afterStageTasks[0].type: Unsupported"},
		"a probe after nothing":     {func(r *Rollout) { r.LargestClusterProbe.AfterStage = "moon" }, `largestClusterProbe.afterStage: Not found: "moon"`},
		"a deadline of no time":     {func(r *Rollout) { r.ProgressDeadline = &metav1.Duration{Duration: time.Second} }, "progressDeadline: Invalid"},
		"a row that is never whole": {func(r *Rollout) { r.InconclusiveLimit = 3 }, "inconclusiveLimit: Invalid value: 3: must be more than analysis.consecutiveLooks"},
		"an unknown answer":         {func(r *Rollout) { r.OnUnknown = "Hope" }, "onUnknown: Unsupported"},
		"a short bake": {func(r *Rollout) {
			r.Bake.CacheTTLs = []RolloutCacheTTL{{Name: "dns", TTL: metav1.Duration{Duration: time.Hour}}}
			r.Bake.MinDuration = &metav1.Duration{Duration: time.Minute}
		}, "bake.minDuration"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := validRollout()
			test.change(r)
			r.SetDefaults()
			if errs := r.Validate(); len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
				t.Errorf("got %v, want %q", errs, test.want)
			}
		})
	}
}

func TestFleetRefuses(t *testing.T) {
	tests := map[string]struct {
		fleet Fleet
		want  string
	}{
		"nothing":    {Fleet{Name: "f"}, "clusters: Required"},
		"twice":      {Fleet{Name: "f", Clusters: []FleetCluster{{Name: "a", Kubeconfig: "x"}, {Name: "a", Kubeconfig: "y"}}}, `clusters[1].name: Duplicate value: "a"`},
		"no file":    {Fleet{Name: "f", Clusters: []FleetCluster{{Name: "a"}}}, "clusters[0].kubeconfig: Required"},
		"a label":    {Fleet{Name: "f", Clusters: []FleetCluster{{Name: "a", Kubeconfig: "x", Labels: map[string]string{"a b": "c"}}}}, "clusters[0].labels[a b]: Invalid"},
		"a hub":      {Fleet{Name: "f", Secrets: &FleetSecrets{}}, "secrets.namespace: Required"},
		"a context":  {Fleet{Name: "f", Secrets: &FleetSecrets{FleetHub: FleetHub{Context: "x", Namespace: "n"}}}, "secrets.kubeconfig: Required"},
		"a selector": {Fleet{Name: "f", ClusterProfiles: &FleetProfiles{FleetHub: FleetHub{Kubeconfig: "x", Namespace: "n", LabelSelector: &metav1.LabelSelector{}}}}, "clusterProfiles.labelSelector: Required"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.fleet.SetDefaults()
			if errs := test.fleet.Validate(); len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
				t.Errorf("got %v, want %q", errs, test.want)
			}
		})
	}
}
