package v1alpha1

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a change does once it runs. A simulated node has no processes: what a kubelet would report of a crash, or of a node
// without memory, is reported in its place; all else is done.

// UpdateAction brings a new version of the fixtures' agent (fixtures.agent) to some nodes, as one step of a rollout does: its
// template is changed under OnDelete, and the pods of these nodes are deleted so that new ones come. It is done when as many run.
type UpdateAction struct {
	// Version is the tag of the new image, at most 128 letters, digits, dots, dashes and underscores; not "0", which runs before.
	Version string `json:"version"`
	// Nodes is how many nodes come to run it, drawn by parameters.seed; 1 to parameters.nodes.
	Nodes int `json:"nodes"`
	// Annotations are those of the new pods: seakeep.dev/agent-… say what they ask of the API server, as in any lab.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// PodStatusAction reports of the containers of a change what a kubelet would, until the drill is over or the pods are gone.
type PodStatusAction struct {
	// Of is the step whose update brought the pods.
	Of string `json:"of"`
	// State is CrashLoop (a container that restarts each second and is not ready) or NotReady (one that runs and is not ready).
	State PodState `json:"state"`
	// For is how long after its container's start a pod is in this state, in machine time, and ready from then on; default 0:
	// for as long as it runs. It goes with NotReady.
	For metav1.Duration `json:"for,omitempty"`
}

// PodState is what is reported of a container.
type PodState string

// The states of a container.
const (
	PodCrashLoop PodState = "CrashLoop"
	PodNotReady  PodState = "NotReady"
)

// NodeConditionAction reports a condition as True on every node that runs a change, and as False on nodes that no longer do and
// when the drill is over.
type NodeConditionAction struct {
	// Of is the step whose update brought the change.
	Of string `json:"of"`
	// Type is MemoryPressure, DiskPressure, PIDPressure or NetworkUnavailable.
	Type string `json:"type"`
}

// NeighboursAction reports the other pods of nodes that run a change as not ready, while the nodes themselves say nothing. When
// the change is gone from a node, or the drill is over, these pods are deleted, and their controllers make new ones.
type NeighboursAction struct {
	// Of is the step whose update brought the change.
	Of string `json:"of"`
}

// WebhookAction registers a validating admission webhook for writes to pods and ConfigMaps, which lets everything through after a
// while, until the drill is over. It is served by the drill itself, on loopback.
type WebhookAction struct {
	// Delay is how long it takes, in machine time; 0s–10s.
	Delay metav1.Duration `json:"delay"`
}

const maxWebhookDelay = 10 * time.Second

// AgentVersion is what the fixtures' agent runs before any update.
const AgentVersion = "0"

var (
	podStates      = []PodState{PodCrashLoop, PodNotReady}
	nodeConditions = []string{"MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"}
	imageTag       = regexp.MustCompile(`^\w[\w.-]{0,127}$`)
)

func (a *UpdateAction) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !imageTag.MatchString(a.Version) || a.Version == AgentVersion {
		errs = append(errs, field.Invalid(path.Child("version"), a.Version, "must be an image's tag, and another than "+AgentVersion+", which runs before"))
	}
	if a.Nodes < 1 {
		errs = append(errs, field.Invalid(path.Child("nodes"), a.Nodes, "must be at least 1"))
	}
	for key := range a.Annotations {
		for _, problem := range validation.IsQualifiedName(strings.ToLower(key)) {
			errs = append(errs, field.Invalid(path.Child("annotations").Key(key), key, problem))
		}
	}
	return errs
}

func (a *PodStatusAction) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !slices.Contains(podStates, a.State) {
		errs = append(errs, field.NotSupported(path.Child("state"), a.State, podStates))
	}
	switch d := a.For.Duration; {
	case d < 0:
		errs = append(errs, field.Invalid(path.Child("for"), d.String(), "must not be negative"))
	case d > 0 && a.State == PodCrashLoop:
		errs = append(errs, field.Forbidden(path.Child("for"), "it goes with NotReady"))
	}
	return errs
}

func (a *NodeConditionAction) validate(path *field.Path) field.ErrorList {
	return oneOf(a.Type, path.Child("type"), nodeConditions...)
}

func (a *WebhookAction) validate(path *field.Path) field.ErrorList {
	if d := a.Delay.Duration; d < 0 || d > maxWebhookDelay {
		return field.ErrorList{field.Invalid(path.Child("delay"), d.String(), fmt.Sprintf("must be between 0s and %v", maxWebhookDelay))}
	}
	return nil
}

// of is the step whose change the action is about; "" when it is about none.
func (a *DrillAction) of() (step string, child string) {
	switch {
	case a.PodStatus != nil:
		return a.PodStatus.Of, "podStatus"
	case a.NodeCondition != nil:
		return a.NodeCondition.Of, "nodeCondition"
	case a.Neighbours != nil:
		return a.Neighbours.Of, "neighbours"
	}
	return "", ""
}

// validateChanges checks what a step by itself cannot know: that there is something to update, and that what is said of a change is
// said of one.
func (d *Drill) validateChanges(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	updates := map[string]bool{}
	for i := range d.Timeline {
		s := &d.Timeline[i]
		p := path.Index(i).Child("action")
		u := s.Action.Update
		updates[s.Name] = u != nil
		if u == nil {
			continue
		}
		if !d.Fixtures.Agent {
			errs = append(errs, field.Required(field.NewPath("fixtures", "agent"), fmt.Sprintf("step %q brings a new version of it", s.Name)))
		}
		if u.Nodes > d.Parameters.Nodes {
			errs = append(errs, field.Invalid(p.Child("update", "nodes"), u.Nodes, fmt.Sprintf("must be at most the %d nodes there are", d.Parameters.Nodes)))
		}
	}
	for i := range d.Timeline {
		of, child := d.Timeline[i].Action.of()
		if child != "" && !updates[of] {
			errs = append(errs, field.Invalid(path.Index(i).Child("action", child, "of"), of, "must be a step that does an update"))
		}
	}
	return errs
}
