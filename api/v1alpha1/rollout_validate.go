package v1alpha1

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// MaxFirstStep is how many nodes of a cluster the first step may have, and MaxGrowth how many times the nodes of one step
	// the next may have: what three nodes cost says what nine will, and not what three hundred will.
	MaxFirstStep = 3
	MaxGrowth    = 3

	maxStages = 100
	maxSteps  = 30
	maxTasks  = 20
)

// Validate implements Object. What needs the clusters (a stage without one, steps that grow too fast for their size) is
// refused when the plan is made.
func (r *Rollout) Validate() field.ErrorList {
	errs := validateLabel(r.Name, field.NewPath("name"))
	errs = append(errs, r.Change.validate(field.NewPath("change"))...)
	errs = append(errs, r.validateStages(field.NewPath("stages"))...)
	errs = append(errs, validateSteps(r.Steps, field.NewPath("steps"))...)
	errs = append(errs, r.Nodes.validate(field.NewPath("nodes"))...)
	if a := r.Change.AdvancedDaemonSet; a != nil && a.Install != nil && r.Nodes.Selector != nil {
		errs = append(errs, field.Forbidden(field.NewPath("nodes", "selector"), "OpenKruise makes the pods of what is new on the nodes that the template fits: select them there (nodeSelector, affinity)"))
	}
	errs = append(errs, validateCount(r.MaxFailures, 0, 99, field.NewPath("maxFailures"))...)
	errs = append(errs, validateCount(r.MaxSkipped, 0, 99, field.NewPath("maxSkipped"))...)
	errs = append(errs, lengthBetween(r.ProgressDeadline, 10*time.Second, 24*time.Hour, field.NewPath("progressDeadline"))...)
	errs = append(errs, lengthBetween(r.Interval, time.Second, time.Hour, field.NewPath("interval"))...)
	errs = append(errs, between(r.InconclusiveLimit, 1, 1000, field.NewPath("inconclusiveLimit"))...)
	if r.InconclusiveLimit <= r.Analysis.ConsecutiveLooks {
		errs = append(errs, field.Invalid(field.NewPath("inconclusiveLimit"), r.InconclusiveLimit, "must be more than analysis.consecutiveLooks: a row of looks that is not complete is Unknown"))
	}
	errs = append(errs, r.Analysis.validate(r.Interval.Duration, field.NewPath("analysis"))...)
	errs = append(errs, r.Bake.validate(&r.Analysis, r.Interval.Duration, field.NewPath("bake"))...)
	errs = append(errs, r.ScaleGate.validate(field.NewPath("scaleGate"))...)
	errs = append(errs, r.OnFailure.validate(field.NewPath("onFailure"))...)
	if r.OnUnknown != OnUnknownPause && r.OnUnknown != OnUnknownWait {
		errs = append(errs, field.NotSupported(field.NewPath("onUnknown"), r.OnUnknown, []RolloutOnUnknown{OnUnknownPause, OnUnknownWait}))
	}
	return errs
}

func (c *RolloutChange) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	workloads := 0
	if d := c.DaemonSet; d != nil {
		workloads++
		p := path.Child("daemonSet")
		errs = append(errs, d.WorkloadChange.validate(p)...)
		if d.Install != nil {
			if len(d.Template) == 0 {
				errs = append(errs, field.Required(p.Child("template"), "a DaemonSet that is new has no template to patch"))
			}
			for _, problem := range validation.IsQualifiedName(d.Install.EnrolmentLabel) {
				errs = append(errs, field.Invalid(p.Child("install", "enrolmentLabel"), d.Install.EnrolmentLabel, problem))
			}
		}
	}
	if a := c.AdvancedDaemonSet; a != nil {
		workloads++
		p := path.Child("advancedDaemonSet")
		errs = append(errs, a.WorkloadChange.validate(p)...)
		if a.Install != nil && len(a.Template) == 0 {
			errs = append(errs, field.Required(p.Child("template"), "a DaemonSet that is new has no template to patch"))
		}
	}
	if d := c.Deployment; d != nil {
		workloads++
		errs = append(errs, d.validate(path.Child("deployment"))...)
	}
	switch {
	case workloads > 1:
		errs = append(errs, field.Invalid(path, workloads, "must change one of daemonSet, advancedDaemonSet and deployment, beside manifests"))
	case workloads == 0 && len(c.Manifests) == 0:
		errs = append(errs, field.Required(path, "one of daemonSet, advancedDaemonSet, deployment, or manifests"))
	}
	seen := sets.New[string]()
	for i, m := range c.Manifests {
		errs = append(errs, validateManifest(m, seen, path.Child("manifests").Index(i))...)
	}
	for i, glob := range c.UserAgents {
		errs = append(errs, required(glob, path.Child("userAgents").Index(i), "a glob")...)
	}
	return errs
}

func validateManifest(m map[string]any, seen sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	text := func(in map[string]any, name string) string {
		s, _ := in[name].(string)
		return s
	}
	metadata, _ := m["metadata"].(map[string]any)
	errs = append(errs, required(text(m, "apiVersion"), path.Child("apiVersion"), "the object's")...)
	errs = append(errs, required(text(m, "kind"), path.Child("kind"), "the object's")...)
	errs = append(errs, required(text(metadata, "name"), path.Child("metadata", "name"), "what is applied has a name")...)
	id := strings.Join([]string{text(m, "apiVersion"), text(m, "kind"), text(metadata, "namespace"), text(metadata, "name")}, "/")
	if seen.Has(id) {
		errs = append(errs, field.Duplicate(path, id))
	}
	seen.Insert(id)
	return errs
}

func (w *WorkloadChange) validate(path *field.Path) field.ErrorList {
	errs := validateLabel(w.Namespace, path.Child("namespace"))
	for _, problem := range validation.IsDNS1123Subdomain(w.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), w.Name, problem))
	}
	if (len(w.Template) == 0) == (len(w.Patch) == 0) {
		errs = append(errs, field.Required(path.Child("template"), "exactly one of template and patch"))
	}
	return errs
}

func (r *Rollout) validateStages(path *field.Path) field.ErrorList {
	if len(r.Stages) == 0 || len(r.Stages) > maxStages {
		return field.ErrorList{field.Required(path, fmt.Sprintf("1 to %d stages", maxStages))}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range r.Stages {
		s := &r.Stages[i]
		p := path.Index(i)
		errs = append(errs, validateLabel(s.Name, p.Child("name"))...)
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		errs = append(errs, s.validate(p)...)
	}
	if after := r.LargestClusterProbe.AfterStage; after != "" && !seen.Has(after) {
		errs = append(errs, field.NotFound(field.NewPath("largestClusterProbe", "afterStage"), after))
	}
	if r.LargestClusterProbe.AfterStage != "" && r.LargestClusterProbe.Disabled {
		errs = append(errs, field.Invalid(field.NewPath("largestClusterProbe", "disabled"), true, "goes without afterStage"))
	}
	return errs
}

func (s *RolloutStage) validate(path *field.Path) field.ErrorList {
	errs := validateSelector(&s.LabelSelector, path.Child("labelSelector"), "an empty selector would select the whole fleet at once")
	if s.SortingLabelKey != "" {
		for _, problem := range validation.IsQualifiedName(s.SortingLabelKey) {
			errs = append(errs, field.Invalid(path.Child("sortingLabelKey"), s.SortingLabelKey, problem))
		}
	}
	errs = append(errs, validateCount(s.MaxConcurrency, 1, 100, path.Child("maxConcurrency"))...)
	errs = append(errs, validateTasks(s.BeforeStageTasks, path.Child("beforeStageTasks"))...)
	errs = append(errs, validateTasks(s.AfterStageTasks, path.Child("afterStageTasks"))...)
	return append(errs, validateSteps(s.Steps, path.Child("steps"))...)
}

func validateSelector(s *metav1.LabelSelector, path *field.Path, why string) field.ErrorList {
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return field.ErrorList{field.Required(path, why)}
	}
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return field.ErrorList{field.Invalid(path, metav1.FormatLabelSelector(s), err.Error())}
	}
	return nil
}

func validateTasks(tasks []RolloutTask, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(tasks) > maxTasks {
		errs = append(errs, field.TooMany(path, len(tasks), maxTasks))
	}
	for i, t := range tasks {
		p := path.Index(i)
		switch t.Type {
		case TaskTimedWait, TaskAnalysis:
			if t.WaitTime == nil {
				errs = append(errs, field.Required(p.Child("waitTime"), "how long, as 30m"))
			} else {
				errs = append(errs, lengthBetween(t.WaitTime, time.Second, 30*24*time.Hour, p.Child("waitTime"))...)
			}
		case TaskApproval:
			if t.WaitTime != nil {
				errs = append(errs, field.Forbidden(p.Child("waitTime"), "an approval is waited for until it is there"))
			}
		default:
			errs = append(errs, field.NotSupported(p.Child("type"), t.Type, []RolloutTaskType{TaskTimedWait, TaskApproval, TaskAnalysis}))
		}
	}
	return errs
}

// validateSteps compares steps of one unit; numbers with shares are compared when the sizes of the clusters are known.
func validateSteps(steps []RolloutStep, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(steps) > maxSteps {
		errs = append(errs, field.TooMany(path, len(steps), maxSteps))
	}
	for i, s := range steps {
		p := path.Index(i).Child("replicas")
		n, percent, err := countOf(s.Replicas)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(p, s.Replicas.String(), err.Error()))
			continue
		case n < 1 || percent && n > 100:
			errs = append(errs, field.Invalid(p, s.Replicas.String(), "must be at least 1 node, or 1% to 100%"))
			continue
		case i == 0 && !percent && n > MaxFirstStep:
			errs = append(errs, field.Invalid(p, s.Replicas.String(), fmt.Sprintf("the first step must be at most %d nodes", MaxFirstStep)))
		}
		if s.Pause.Duration != nil {
			errs = append(errs, lengthBetween(s.Pause.Duration, 0, 30*24*time.Hour, path.Index(i).Child("pause", "duration"))...)
		}
		if i == 0 {
			continue
		}
		before, beforePercent, err := countOf(steps[i-1].Replicas)
		if err != nil || before < 1 || percent != beforePercent {
			continue
		}
		if n <= before {
			errs = append(errs, field.Invalid(p, s.Replicas.String(), "must be more than the step before"))
		} else if n > MaxGrowth*before {
			errs = append(errs, field.Invalid(p, s.Replicas.String(), fmt.Sprintf("grows by more than %d times: what the step before cost does not say what this one will", MaxGrowth)))
		}
	}
	if len(steps) > 0 {
		if last := steps[len(steps)-1].Replicas; last.String() != "100%" {
			errs = append(errs, field.Invalid(path.Index(len(steps)-1).Child("replicas"), last.String(), "the last step must be 100%"))
		}
	}
	return errs
}

func (n *RolloutNodes) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n.Selector != nil {
		errs = append(errs, validateSelector(n.Selector, path.Child("selector"), "leave it out for all nodes")...)
	}
	errs = append(errs, validateCount(n.MaxUnavailable, 1, 100, path.Child("maxUnavailable"))...)
	if n.MaxSurge != nil {
		errs = append(errs, field.Forbidden(path.Child("maxSurge"), "a DaemonSet under OnDelete ignores it; use maxUnavailable"))
	}
	return append(errs, validateCount(n.MaxLeaked, 0, 100, path.Child("maxLeaked"))...)
}

var percentText = regexp.MustCompile(`^[0-9]{1,3}%$`)

// countOf is a number, or a share in percent.
func countOf(v intstr.IntOrString) (n int, percent bool, err error) {
	if v.Type == intstr.Int {
		return int(v.IntVal), false, nil
	}
	if !percentText.MatchString(v.StrVal) {
		return 0, false, fmt.Errorf("must be a whole number or a share like 25%%")
	}
	n, err = strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, true, err
}

// validateCount checks a number or share; low bounds both, high the share.
func validateCount(v *intstr.IntOrString, low, high int, path *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	n, percent, err := countOf(*v)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(path, v.String(), err.Error())}
	case n < low, percent && n > high:
		return field.ErrorList{field.Invalid(path, v.String(), fmt.Sprintf("must be at least %d, as a share at most %d%%", low, high))}
	}
	return nil
}

// lengthBetween checks a length of time that may be left out.
func lengthBetween(d *metav1.Duration, low, high time.Duration, path *field.Path) field.ErrorList {
	if d == nil {
		return nil
	}
	return durationBetween(d, low, high, path)
}
