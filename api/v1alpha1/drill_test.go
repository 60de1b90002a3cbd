package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func at(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// smallDrill is the least that is valid.
func smallDrill() *Drill {
	d := &Drill{
		TypeMeta: TypeMeta{APIVersion: APIVersion, Kind: KindDrill},
		Name:     "small", Title: "A small drill", Target: DrillTarget{Kind: TargetLab},
		Phases: []DrillPhase{{Name: "baseline", At: at(-time.Minute)}, {Name: "fault", At: at(0)}},
		Timeline: []DrillStep{{
			Name: "kill", At: at(0), Action: DrillAction{Component: &ComponentAction{Name: "etcd", Op: ComponentKill}},
		}, {
			Name: "update", At: at(0), Action: DrillAction{Update: &UpdateAction{Version: "1", Nodes: 3}},
		}, {
			Name: "sick", After: "update", Action: DrillAction{PodStatus: &PodStatusAction{Of: "update", State: PodNotReady}},
		}},
		Fixtures:   DrillFixtures{Agent: true},
		Probes:     []DrillProbe{{Admin: &RequestProbe{}}, {Leases: &LeasesProbe{}}},
		Recovered:  []DrillCondition{{Probe: "admin", Consecutive: 3}},
		Hypothesis: []DrillHypothesis{{Name: "works", Probe: "admin", Metric: "successRatio", Op: ">=", Value: 0.9}},
		End:        DrillEnd{At: metav1.Duration{Duration: time.Minute}},
	}
	return d
}

func TestDrillDefaults(t *testing.T) {
	d := smallDrill()
	d.SetDefaults()
	d.SetDefaults() // idempotent
	if errs := d.Validate(); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if d.Parameters.Nodes != 300 || *d.Parameters.Pods != 6000 || d.Parameters.Factor != 30 {
		t.Errorf("parameters: want 300 nodes, 6000 pods, factor 30, got %+v", d.Parameters)
	}
	if got := d.Compressed(20 * time.Minute); got != 40*time.Second {
		t.Errorf("20 minutes at factor 30: want 40s, got %v", got)
	}
	if got := d.Probes[0].Admin.Within.Duration; got != time.Second {
		t.Errorf("admin within: want 1s, got %v", got)
	}
}

func TestDrillValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Drill)
		want   string // the field and part of the rule
	}{
		"no phase":                {func(d *Drill) { d.Phases = nil }, "phases: Required"},
		"phases not in order":     {func(d *Drill) { d.Phases[1].At = at(-2 * time.Minute) }, "phases[1].at"},
		"two phases of a name":    {func(d *Drill) { d.Phases[1].Name = "baseline" }, "phases[1].name: Duplicate"},
		"phase after nothing":     {func(d *Drill) { d.Phases[1].At, d.Phases[1].After = nil, "nobody" }, "phases[1].after: Not found"},
		"two steps of a name":     {func(d *Drill) { d.Timeline = append(d.Timeline, d.Timeline[0]) }, "timeline[3].name: Duplicate"},
		"a step without a time":   {func(d *Drill) { d.Timeline[0].At = nil }, "exactly one of at and after"},
		"a step after itself":     {func(d *Drill) { d.Timeline[0].At, d.Timeline[0].After = nil, "kill" }, "in a circle"},
		"a step without action":   {func(d *Drill) { d.Timeline[0].Action = DrillAction{} }, "timeline[0].action: Required"},
		"a step with two actions": {func(d *Drill) { d.Timeline[0].Action.DNSCache = &DNSCacheAction{Op: CacheExpire} }, "exactly one action"},
		"an unknown operation":    {func(d *Drill) { d.Timeline[0].Action.Component.Op = "Explode" }, "timeline[0].action.component.op: Unsupported"},
		"a kill that gets ready":  {func(d *Drill) { d.Timeline[0].Action.Component.ReadyWithin = *at(time.Second) }, "timeline[0].action.component.readyWithin: Forbidden"},
		"ready within an hour": {func(d *Drill) {
			d.Timeline[0].Action.Component = &ComponentAction{Name: "dns", Op: ComponentRestart, ReadyWithin: *at(time.Hour)}
		}, "timeline[0].action.component.readyWithin: Invalid"},
		"too many replicas of DNS":  {func(d *Drill) { d.Target.DNSReplicas = 11 }, "target.dnsReplicas: Invalid"},
		"retried for ever":          {func(d *Drill) { d.Timeline[0].Retry = at(time.Second) }, "retry and until go together"},
		"no probe":                  {func(d *Drill) { d.Probes = nil }, "probes: Required"},
		"an empty probe":            {func(d *Drill) { d.Probes[0] = DrillProbe{} }, "probes[0]: Required"},
		"a probe twice":             {func(d *Drill) { d.Probes = append(d.Probes, d.Probes[0]) }, "probes[2]: Duplicate"},
		"a hasty probe":             {func(d *Drill) { d.Probes[0].Admin.Interval = *at(time.Millisecond) }, "probes[0].admin.interval"},
		"within beyond the timeout": {func(d *Drill) { d.Probes[0].Admin.Within = *at(time.Hour) }, "probes[0].admin.within"},
		"a claim about no probe":    {func(d *Drill) { d.Hypothesis[0].Probe = "dns" }, "hypothesis[0].probe: Not found"},
		"a claim about no series":   {func(d *Drill) { d.Hypothesis[0].Series = "cached" }, "hypothesis[0].series: Unsupported"},
		"a claim in no phase":       {func(d *Drill) { d.Hypothesis[0].During = []string{"storm"} }, "hypothesis[0].during[0]: Not found"},
		"an unknown metric":         {func(d *Drill) { d.Hypothesis[0].Metric = "beauty" }, "hypothesis[0].metric: Unsupported"},
		"missed of requests":        {func(d *Drill) { d.Hypothesis[0].Metric = "missed" }, "only the probe leases has it"},
		"a bound on nobody":         {func(d *Drill) { d.Target.Bounds = []ComponentBounds{{Component: "kubelet", CPU: 1}} }, "target.bounds[0].component: Unsupported"},
		"a bound of nothing":        {func(d *Drill) { d.Target.Bounds = []ComponentBounds{{Component: "etcd"}} }, "target.bounds[0]: Required"},
		"a bound that kills": {func(d *Drill) {
			d.Target.Bounds = []ComponentBounds{{Component: "etcd", Memory: new(resource.MustParse("1Mi"))}}
		}, "target.bounds[0].memory: Invalid"},
		"two bounds of one": {func(d *Drill) {
			d.Target.Bounds = []ComponentBounds{{Component: "etcd", CPU: 1}, {Component: "etcd", CPU: 2}}
		}, "target.bounds[1].component: Duplicate"},
		"a bad comparison":          {func(d *Drill) { d.Hypothesis[0].Op = "~" }, "hypothesis[0].op: Unsupported"},
		"withinRatio without limit": {func(d *Drill) { d.Hypothesis[0].Metric = "withinRatio" }, "within goes with metric withinRatio"},
		"recovered is not defined": {func(d *Drill) {
			d.Recovered = nil
			d.Timeline[0].When = WhenUnhealthy
		}, "asks whether the target is well"},
		"the end before a step":                  {func(d *Drill) { d.End.At = *at(-time.Second) }, "end.at"},
		"another target":                         {func(d *Drill) { d.Target.Kind = "Production" }, "target.kind: Unsupported"},
		"no nodes":                               {func(d *Drill) { d.Parameters.Nodes = -1 }, "parameters.nodes"},
		"its own rehearsal":                      {func(d *Drill) { d.Rehearsal = "small" }, "its own rehearsal"},
		"a label of two words":                   {func(d *Drill) { d.Labels = map[string]string{"class": "slow leak"} }, "labels[class]: Invalid"},
		"an update of nothing":                   {func(d *Drill) { d.Fixtures.Agent = false }, "fixtures.agent: Required"},
		"an update to what is":                   {func(d *Drill) { d.Timeline[1].Action.Update.Version = "0" }, "timeline[1].action.update.version: Invalid"},
		"an update to an image":                  {func(d *Drill) { d.Timeline[1].Action.Update.Version = "a:b" }, "timeline[1].action.update.version: Invalid"},
		"an update of no node":                   {func(d *Drill) { d.Timeline[1].Action.Update.Nodes = 0 }, "timeline[1].action.update.nodes: Invalid"},
		"an update of more nodes than there are": {func(d *Drill) { d.Timeline[1].Action.Update.Nodes = 301 }, "timeline[1].action.update.nodes: Invalid"},
		"an annotation that is none":             {func(d *Drill) { d.Timeline[1].Action.Update.Annotations = map[string]string{"a b": "c"} }, "timeline[1].action.update.annotations[a b]: Invalid"},
		"pods of no change":                      {func(d *Drill) { d.Timeline[2].Action.PodStatus.Of = "kill" }, "timeline[2].action.podStatus.of: Invalid"},
		"a pod in no state":                      {func(d *Drill) { d.Timeline[2].Action.PodStatus.State = "Sad" }, "timeline[2].action.podStatus.state: Unsupported"},
		"a crash that passes": {func(d *Drill) {
			d.Timeline[2].Action.PodStatus = &PodStatusAction{Of: "update", State: PodCrashLoop, For: *at(time.Second)}
		}, "timeline[2].action.podStatus.for: Forbidden"},
		"nodes of no change": {func(d *Drill) {
			d.Timeline[2].Action = DrillAction{NodeCondition: &NodeConditionAction{Of: "nobody", Type: "MemoryPressure"}}
		}, "timeline[2].action.nodeCondition.of: Invalid"},
		"a condition of no node": {func(d *Drill) {
			d.Timeline[2].Action = DrillAction{NodeCondition: &NodeConditionAction{Of: "update", Type: "Sad"}}
		}, "timeline[2].action.nodeCondition.type: Unsupported"},
		"neighbours of no change": {func(d *Drill) { d.Timeline[2].Action = DrillAction{Neighbours: &NeighboursAction{}} }, "timeline[2].action.neighbours.of: Invalid"},
		"a webhook that never answers": {func(d *Drill) {
			d.Timeline[2].Action = DrillAction{Webhook: &WebhookAction{Delay: *at(time.Minute)}}
		}, "timeline[2].action.webhook.delay: Invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			d := smallDrill()
			d.SetDefaults()
			tc.change(d)
			d.SetDefaults()
			errs := d.Validate()
			if !slices.ContainsFunc(errs, func(e *field.Error) bool { return strings.Contains(e.Error(), tc.want) }) {
				t.Errorf("want a violation with %q, got %v", tc.want, errs.ToAggregate())
			}
		})
	}
}
