package v1alpha1

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate implements Object.
func (d *Drill) Validate() field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, validateLabel(d.Name, field.NewPath("name"))...)
	errs = append(errs, required(d.Title, field.NewPath("title"), "one line for people")...)
	errs = append(errs, validateLabels(d.Labels, field.NewPath("labels"))...)
	errs = append(errs, d.Target.validate(field.NewPath("target"))...)
	errs = append(errs, d.Parameters.validate(field.NewPath("parameters"))...)
	if d.Rehearsal != "" {
		errs = append(errs, validateLabel(d.Rehearsal, field.NewPath("rehearsal"))...)
		if d.Rehearsal == d.Name {
			errs = append(errs, field.Invalid(field.NewPath("rehearsal"), d.Rehearsal, "a scenario cannot be its own rehearsal"))
		}
	}
	errs = append(errs, validateLabel(d.Fixtures.Namespace, field.NewPath("fixtures", "namespace"))...)
	errs = append(errs, between(d.Fixtures.Services, 2, 10000, field.NewPath("fixtures", "services"))...)
	if d.DNS.TTL.Duration < 0 {
		errs = append(errs, field.Invalid(field.NewPath("dns", "ttl"), d.DNS.TTL.Duration.String(), "must not be negative"))
	}
	steps := d.stepNames()
	errs = append(errs, d.validatePhases(field.NewPath("phases"), steps)...)
	errs = append(errs, d.validateTimeline(field.NewPath("timeline"), steps)...)
	errs = append(errs, d.validateChanges(field.NewPath("timeline"))...)
	errs = append(errs, d.validateProbes(field.NewPath("probes"))...)
	errs = append(errs, d.validateRecovered(field.NewPath("recovered"))...)
	errs = append(errs, d.validateHypothesis(field.NewPath("hypothesis"))...)
	errs = append(errs, known(d.Headline, d.phaseNames(), field.NewPath("headline"))...)
	errs = append(errs, d.validateEnd(field.NewPath("end"))...)
	return errs
}

func (d *Drill) stepNames() sets.Set[string] {
	names := sets.New[string]()
	for _, s := range d.Timeline {
		names.Insert(s.Name)
	}
	return names
}

func (d *Drill) phaseNames() sets.Set[string] {
	names := sets.New[string]()
	for _, p := range d.Phases {
		names.Insert(p.Name)
	}
	return names
}

func known(names []string, all sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		if !all.Has(name) {
			errs = append(errs, field.NotFound(path.Index(i), name))
		}
	}
	return errs
}

var boundedComponents = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

func (t *DrillTarget) validate(path *field.Path) field.ErrorList {
	errs := oneOf(t.Kind, path.Child("kind"), TargetLab)
	errs = append(errs, between(t.APIServers, 1, 5, path.Child("apiServers"))...)
	errs = append(errs, between(t.DNSReplicas, 1, 10, path.Child("dnsReplicas"))...)
	errs = append(errs, between(t.NodeCaches, 1, 64, path.Child("nodeCaches"))...)
	seen := sets.New[string]()
	for i, b := range t.Bounds {
		p := path.Child("bounds").Index(i)
		if !slices.Contains(boundedComponents, b.Component) {
			errs = append(errs, field.NotSupported(p.Child("component"), b.Component, boundedComponents))
		}
		if seen.Has(b.Component) {
			errs = append(errs, field.Duplicate(p.Child("component"), b.Component))
		}
		seen.Insert(b.Component)
		if b.CPU < 0 || b.CPU > 4096 {
			errs = append(errs, field.Invalid(p.Child("cpu"), b.CPU, "must be a number of cores between 0 and 4096"))
		}
		if b.Memory != nil && b.Memory.Value() < 64<<20 {
			errs = append(errs, field.Invalid(p.Child("memory"), b.Memory.String(), "must be at least 64Mi"))
		}
		if b.CPU == 0 && b.Memory == nil {
			errs = append(errs, field.Required(p, "cpu, memory or both"))
		}
	}
	return errs
}

func (p *DrillParameters) validate(path *field.Path) field.ErrorList {
	errs := between(p.Nodes, 1, 10000, path.Child("nodes"))
	if p.Pods != nil {
		errs = append(errs, between(*p.Pods, 0, 200000, path.Child("pods"))...)
	}
	if p.Factor < 1 || p.Factor > 1000 {
		errs = append(errs, field.Invalid(path.Child("factor"), p.Factor, "must be between 1 and 1000"))
	}
	return errs
}

func (d *Drill) validatePhases(path *field.Path, steps sets.Set[string]) field.ErrorList {
	if len(d.Phases) == 0 {
		return field.ErrorList{field.Required(path, "at least one phase")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	last := time.Duration(-1 << 62)
	for i, phase := range d.Phases {
		p := path.Index(i)
		errs = append(errs, validateLabel(phase.Name, p.Child("name"))...)
		if seen.Has(phase.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), phase.Name))
		}
		seen.Insert(phase.Name)
		switch {
		case (phase.At == nil) == (phase.After == ""):
			errs = append(errs, field.Invalid(p, phase.Name, "exactly one of at and after must be set"))
		case phase.At == nil && i == 0:
			errs = append(errs, field.Invalid(p.Child("after"), phase.After, "the first phase starts at a time"))
		case phase.At == nil && !steps.Has(phase.After):
			errs = append(errs, field.NotFound(p.Child("after"), phase.After))
		case phase.At != nil && phase.At.Duration <= last:
			errs = append(errs, field.Invalid(p.Child("at"), phase.At.Duration.String(), "must be after the phase before it"))
		case phase.At != nil:
			last = phase.At.Duration
		}
	}
	return errs
}

func (d *Drill) validateTimeline(path *field.Path, steps sets.Set[string]) field.ErrorList {
	if len(d.Timeline) == 0 {
		return field.ErrorList{field.Required(path, "at least one step")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	mitigates := ""
	for i := range d.Timeline {
		s := &d.Timeline[i]
		p := path.Index(i)
		errs = append(errs, validateLabel(s.Name, p.Child("name"))...)
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		errs = append(errs, s.validate(p, steps)...)
		if s.Mitigates && mitigates != "" {
			errs = append(errs, field.Invalid(p.Child("mitigates"), s.Name, fmt.Sprintf("step %q mitigates already", mitigates)))
		}
		if s.Mitigates {
			mitigates = s.Name
		}
	}
	return append(errs, d.validateNoCycle(path)...)
}

func (s *DrillStep) validate(path *field.Path, steps sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	switch {
	case (s.At == nil) == (s.After == ""):
		errs = append(errs, field.Invalid(path, s.Name, "exactly one of at and after must be set"))
	case s.After != "" && !steps.Has(s.After):
		errs = append(errs, field.NotFound(path.Child("after"), s.After))
	}
	if s.Plus != nil && (s.After == "" || s.Plus.Duration < 0) {
		errs = append(errs, field.Invalid(path.Child("plus"), s.Plus.Duration.String(), "goes with after and must not be negative"))
	}
	if (s.Retry == nil) != (s.Until == nil) {
		errs = append(errs, field.Invalid(path.Child("retry"), s.Name, "retry and until go together: nothing is retried for ever"))
	}
	if s.Retry != nil && s.Retry.Duration < 10*time.Millisecond {
		errs = append(errs, field.Invalid(path.Child("retry"), s.Retry.Duration.String(), "must be at least 10ms"))
	}
	if s.At != nil && s.Until != nil && s.Until.Duration <= s.At.Duration {
		errs = append(errs, field.Invalid(path.Child("until"), s.Until.Duration.String(), "must be after at"))
	}
	if s.Timeout != nil && s.Timeout.Duration <= 0 {
		errs = append(errs, field.Invalid(path.Child("timeout"), s.Timeout.Duration.String(), "must be above 0s"))
	}
	if s.When != WhenAlways && s.When != WhenUnhealthy {
		errs = append(errs, field.NotSupported(path.Child("when"), s.When, []StepCondition{WhenAlways, WhenUnhealthy}))
	}
	if s.Expect != ExpectSuccess && s.Expect != ExpectMayFail {
		errs = append(errs, field.NotSupported(path.Child("expect"), s.Expect, []StepExpectation{ExpectSuccess, ExpectMayFail}))
	}
	return append(errs, s.Action.validate(path.Child("action"))...)
}

// validateNoCycle refuses steps that wait for each other: they would never start.
func (d *Drill) validateNoCycle(path *field.Path) field.ErrorList {
	after := map[string]string{}
	for _, s := range d.Timeline {
		after[s.Name] = s.After
	}
	for i, s := range d.Timeline {
		name := s.After
		for range d.Timeline {
			if name == "" {
				break
			}
			if name == s.Name {
				return field.ErrorList{field.Invalid(path.Index(i).Child("after"), s.After, "steps wait for each other in a circle")}
			}
			name = after[name]
		}
	}
	return nil
}

func (d *Drill) validateProbes(path *field.Path) field.ErrorList {
	if len(d.Probes) == 0 {
		return field.ErrorList{field.Required(path, "a drill without probes proves nothing")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range d.Probes {
		p := path.Index(i)
		errs = append(errs, d.Probes[i].validate(p)...)
		for _, name := range d.Probes[i].Names() {
			if seen.Has(name) {
				errs = append(errs, field.Duplicate(p, name))
			}
			seen.Insert(name)
		}
	}
	return errs
}

func (d *Drill) validateRecovered(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range d.Recovered {
		p := path.Index(i)
		errs = append(errs, d.validateSelection(c.Probe, c.Series, p)...)
		errs = append(errs, between(c.Consecutive, 1, 10000, p.Child("consecutive"))...)
	}
	if len(d.Recovered) > 0 {
		return errs
	}
	if d.End.WhenRecovered {
		errs = append(errs, field.Required(path, "end.whenRecovered needs to know what recovered means"))
	}
	for _, s := range d.Timeline {
		if s.When == WhenUnhealthy {
			errs = append(errs, field.Required(path, fmt.Sprintf("step %q asks whether the target is well", s.Name)))
		}
	}
	return errs
}

// validateSelection checks that a probe of this name is configured and has the series.
func (d *Drill) validateSelection(probe, series string, path *field.Path) field.ErrorList {
	configured := slices.ContainsFunc(d.Probes, func(p DrillProbe) bool { return slices.Contains(p.Names(), probe) })
	if !configured {
		return field.ErrorList{field.NotFound(path.Child("probe"), probe)}
	}
	if series != "" && !slices.Contains(probeSeries[probe], series) {
		return field.ErrorList{field.NotSupported(path.Child("series"), series, probeSeries[probe])}
	}
	return nil
}

var (
	probeMetrics = []string{"successRatio", "withinRatio", "p50Seconds", "p99Seconds", "maxSeconds", "samples", "missed", "late"}
	runMetrics   = []string{"mitigationSeconds", "recoverySeconds", "agentSuccessRatio", "exposedRatio", "stopped"}
	// DrillOps are the comparisons of a hypothesis.
	DrillOps = []string{"<", "<=", ">=", ">", "=="}
)

func (d *Drill) validateHypothesis(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	phases := d.phaseNames()
	seen := sets.New[string]()
	for i, h := range d.Hypothesis {
		p := path.Index(i)
		errs = append(errs, required(h.Name, p.Child("name"), "what is claimed")...)
		if seen.Has(h.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), h.Name))
		}
		seen.Insert(h.Name)
		if h.Probe == "" {
			errs = append(errs, oneOf(h.Metric, p.Child("metric"), runMetrics...)...)
		} else {
			errs = append(errs, d.validateSelection(h.Probe, h.Series, p)...)
			errs = append(errs, oneOf(h.Metric, p.Child("metric"), probeMetrics...)...)
		}
		errs = append(errs, known(h.During, phases, p.Child("during"))...)
		if (h.Metric == "withinRatio") != (h.Within != nil) {
			errs = append(errs, field.Invalid(p.Child("within"), h.Metric, "within goes with metric withinRatio, and only with it"))
		}
		if (h.Metric == "missed" || h.Metric == "late") && h.Probe != "leases" {
			errs = append(errs, field.Invalid(p.Child("metric"), h.Metric, "only the probe leases has it"))
		}
		errs = append(errs, oneOf(h.Op, p.Child("op"), DrillOps...)...)
	}
	return errs
}

func (d *Drill) validateEnd(path *field.Path) field.ErrorList {
	end := d.End.At.Duration
	var errs field.ErrorList
	for _, p := range d.Phases {
		if p.At != nil && p.At.Duration >= end {
			errs = append(errs, field.Invalid(path.Child("at"), end.String(), fmt.Sprintf("must be after the start of phase %q", p.Name)))
		}
	}
	for _, s := range d.Timeline {
		if s.At != nil && s.At.Duration >= end {
			errs = append(errs, field.Invalid(path.Child("at"), end.String(), fmt.Sprintf("must be after step %q", s.Name)))
		}
	}
	return errs
}

func between(n, low, high int, path *field.Path) field.ErrorList {
	if n < low || n > high {
		return field.ErrorList{field.Invalid(path, n, fmt.Sprintf("must be between %d and %d", low, high))}
	}
	return nil
}

func validateLabel(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, problem := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, name, problem))
	}
	return errs
}

func validateLabels(labels map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for key, value := range labels {
		for _, problem := range append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...) {
			errs = append(errs, field.Invalid(path.Key(key), value, problem))
		}
	}
	return errs
}
