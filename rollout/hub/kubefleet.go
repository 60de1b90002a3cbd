package hub

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/seakeep/seakeep/api/hub"
	"github.com/seakeep/seakeep/rollout/answer"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// What KubeFleet calls what it asks with. Its objects are read as they are: its Go module is not needed for two fields and a
// condition.
const (
	fleetGroup, fleetVersion = "placement.kubernetes-fleet.io", "v1beta1"

	labelLatest    = "kubernetes-fleet.io/isLatestUpdateRunApproval"
	labelUpdateRun = "kubernetes-fleet.io/targetUpdateRun"
	// labelTask is afterStage or beforeStage; requests of a KubeFleet that had no tasks before a stage lack it.
	labelTask = "kubernetes-fleet.io/taskType"

	// approved is ours to say; accepted is KubeFleet's reply, after which nothing counts.
	approved, accepted = "Approved", "ApprovalAccepted"
)

// requestKinds are the requests that an update run makes, by the kind that the annotation names.
var requestKinds = map[string]string{"clusterstagedupdaterun": "ClusterApprovalRequest", "stagedupdaterun": "ApprovalRequest"}

// updateRun is an update run of KubeFleet.
type updateRun struct{ kind, name string }

// updateRunOf reads the annotation: KIND/NAME, as kubectl takes it.
func updateRunOf(text string) (updateRun, error) {
	kind, name, _ := strings.Cut(text, "/")
	if requestKinds[kind] == "" {
		return updateRun{}, fmt.Errorf("annotation %s must be clusterstagedupdaterun/NAME or stagedupdaterun/NAME, got %q", hub.ApprovalAnnotation, text)
	}
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 || len(name) > validation.LabelValueMaxLength {
		return updateRun{}, fmt.Errorf("annotation %s must name an update run, a DNS name of at most %d characters, got %q", hub.ApprovalAnnotation, validation.LabelValueMaxLength, name)
	}
	return updateRun{kind, name}, nil
}

func (u updateRun) String() string { return u.kind + "/" + u.name }

// approve answers KubeFleet's requests for the update run that the object names, and says in a condition how they stand. They are
// read anew each time: what decides is a look of seconds ago, so that there is nothing a watch would tell sooner, and a hub without
// KubeFleet is asked nothing but that. Whoever dies in here has answered or has not, and the next one sees which.
func (s *scope) approve(ctx context.Context) {
	text, asked := s.u.GetAnnotations()[hub.ApprovalAnnotation]
	if !asked {
		meta.RemoveStatusCondition(&s.status.Conditions, hub.Approving)
		return
	}
	say := func(is metav1.ConditionStatus, reason, message string) {
		setCondition(&s.status, hub.Approving, is, reason, message, s.u.GetGeneration())
	}
	run, err := updateRunOf(text)
	if err != nil {
		say(metav1.ConditionFalse, "Invalid", err.Error())
		return
	}
	view, why := s.looks()
	if why != "" {
		say(metav1.ConditionFalse, "NotLooking", why+": nothing is approved")
		return
	}
	others, err := s.alsoNaming(ctx, run)
	switch {
	case err != nil:
		say(metav1.ConditionUnknown, "Failed", err.Error())
		return
	case len(others) > 0:
		say(metav1.ConditionFalse, "Ambiguous", fmt.Sprintf("%s is named by %s too: which of them decides is not known, and nothing is approved", run, strings.Join(others, " and ")))
		return
	}
	requests, err := s.requests(ctx, run)
	if absent(err) {
		s.served(requestKinds[run.kind], false)
		say(metav1.ConditionUnknown, "NotServed", fmt.Sprintf("the hub serves no %s of %s/%s", requestKinds[run.kind], fleetGroup, fleetVersion))
		return
	}
	if err != nil {
		say(metav1.ConditionUnknown, "Failed", fmt.Sprintf("reading the approval requests of %s: %v (deploy/rollout/kubefleet.yaml has the rights)", run, err))
		return
	}
	s.served(requestKinds[run.kind], true)
	var waiting []string
	given := 0
	for i := range requests {
		left, ours, err := s.answer(ctx, &requests[i], run, view)
		switch {
		case err != nil:
			waiting = append(waiting, fmt.Sprintf("%s: %v", requests[i].GetName(), err))
		case left != "":
			waiting = append(waiting, requests[i].GetName()+": "+left)
		case ours:
			given++
		}
	}
	switch {
	case len(waiting) > 0:
		say(metav1.ConditionFalse, "Waiting", strings.Join(waiting, "; "))
	case given > 0:
		say(metav1.ConditionTrue, "Approved", "all requests of "+run.String()+" are approved")
	default:
		say(metav1.ConditionTrue, "NoRequests", "no request of "+run.String()+" is open")
	}
}

// looks is the run as it is seen by who carries it out here and now; else why there is nothing to go by. What a dead process left
// is not looked at, however young it is: nobody would see what has happened since.
func (s *scope) looks() (v engine.View, why string) {
	if s.newest == nil {
		return v, "there is no run"
	}
	live := false
	if h := s.crew.of(s.name); h != nil {
		v, live = h.look()
	}
	said := meta.FindStatusCondition(s.status.Conditions, hub.Accepted)
	switch {
	case !live || v.ID != s.newest.ID:
		return v, fmt.Sprintf("nobody looks at the clusters of run %s, which is %s", s.newest.ID, s.newest.Phase)
	case said == nil || said.Status != metav1.ConditionTrue:
		return v, fmt.Sprintf("run %s is not what the spec says", s.newest.ID)
	}
	return v, ""
}

// alsoNaming are other objects that name the update run.
func (s *scope) alsoNaming(ctx context.Context, run updateRun) (others []string, err error) {
	list := new(unstructured.UnstructuredList)
	list.SetGroupVersionKind(Kind)
	if err := s.known.List(ctx, list, client.InNamespace(s.name.Namespace)); err != nil {
		return nil, fmt.Errorf("reading the other Rollouts: %w", err)
	}
	for _, u := range list.Items {
		if u.GetName() != s.name.Name && u.GetAnnotations()[hub.ApprovalAnnotation] == run.String() {
			others = append(others, "Rollout "+u.GetName())
		}
	}
	return others, nil
}

// requests are the latest that an update run made. Namespaced ones are read in the object's own namespace: what is asked elsewhere
// is not for whoever may write here to approve.
func (s *scope) requests(ctx context.Context, run updateRun) ([]unstructured.Unstructured, error) {
	list := new(unstructured.UnstructuredList)
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: fleetGroup, Version: fleetVersion, Kind: requestKinds[run.kind] + "List"})
	options := []client.ListOption{client.MatchingLabels{labelLatest: "true", labelUpdateRun: run.name}}
	if requestKinds[run.kind] == "ApprovalRequest" {
		options = append(options, client.InNamespace(s.name.Namespace))
	}
	err := s.client.List(ctx, list, options...)
	return list.Items, err
}

// absent is true when the hub does not serve what was asked for: it was never there, or its CRD is gone.
func absent(err error) bool { return meta.IsNoMatchError(err) || apierrors.IsNotFound(err) }

// served logs, once, that a kind is there or not.
func (r *reconciler) served(kind string, is bool) {
	if was, known := r.servedKinds.Swap(kind, is); known && was == is {
		return
	}
	if is {
		r.Log.Info("Answering KubeFleet's approval requests", "kind", kind)
	} else {
		r.Log.Info("The hub serves no approval requests of KubeFleet: they are answered when it does", "kind", kind)
	}
}

// request is what an open request asks, and the conditions that it has.
type request struct {
	about      answer.Asked
	conditions []metav1.Condition
}

// requestOf reads a request of an update run. It returns nil for one that is not to be answered: left says why, if somebody should
// know, and ours is true for one that is approved, by us or by somebody else.
func requestOf(u *unstructured.Unstructured, run updateRun) (open *request, left string, ours bool, err error) {
	var r struct {
		Spec struct {
			ParentStageRollout string `json:"parentStageRollout"`
			TargetStage        string `json:"targetStage"`
		} `json:"spec"`
		Status struct {
			Conditions []metav1.Condition `json:"conditions"`
		} `json:"status"`
	}
	fields := map[string]any{"spec": u.Object["spec"], "status": u.Object["status"]}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &r); err != nil {
		return nil, "", false, fmt.Errorf("reading it: %w", err)
	}
	conditions := r.Status.Conditions
	said := meta.FindStatusCondition(conditions, approved)
	switch {
	case r.Spec.ParentStageRollout != run.name, u.GetDeletionTimestamp() != nil:
		return nil, "", false, nil
	case meta.IsStatusConditionTrue(conditions, accepted):
		return nil, "", true, nil
	case said != nil && said.Status == metav1.ConditionFalse:
		return nil, "somebody refused it: " + said.Message, false, nil
	// KubeFleet reads an approval of another generation as none.
	case said != nil && said.Status == metav1.ConditionTrue && said.ObservedGeneration == u.GetGeneration():
		return nil, "", true, nil
	}
	task, known := map[string]string{"": answer.After, "afterStage": answer.After, "beforeStage": answer.Before}[u.GetLabels()[labelTask]]
	if !known {
		return nil, fmt.Sprintf("label %s is %q, which is not known", labelTask, u.GetLabels()[labelTask]), false, nil
	}
	return &request{answer.Asked{Stage: r.Spec.TargetStage, Task: task}, conditions}, "", false, nil
}

// answer approves a request if the run says Pass for its stage. It returns why one that is open was left so; ours is true for one
// that is approved, by us or by somebody else.
func (s *scope) answer(ctx context.Context, u *unstructured.Unstructured, run updateRun, view engine.View) (left string, ours bool, err error) {
	open, left, ours, err := requestOf(u, run)
	if open == nil {
		return left, ours, err
	}
	a, _ := answer.Of(view, open.about, s.newest.Rollout.Analysis.MaxDataAge.Duration, time.Now())
	if a.Verdict != verdict.Pass {
		return fmt.Sprintf("%s: %s", a.Verdict, a.Reason), false, nil
	}
	meta.SetStatusCondition(&open.conditions, metav1.Condition{
		Type: approved, Status: metav1.ConditionTrue, ObservedGeneration: u.GetGeneration(), Reason: "RolloutPassed",
		Message: fmt.Sprintf("%s stage %s, rollout %s passes in run %s: %s", open.about.Task, open.about.Stage, s.name, a.Run, verdict.Clip(a.Reason, maxWhy)),
	})
	if err := putConditions(u, open.conditions); err != nil {
		return "", false, err
	}
	// With the version that was read: one that was accepted, changed or deleted meanwhile is a conflict, and is read again.
	if err := s.client.Status().Update(ctx, u, client.FieldOwner("seakeep-rollout")); err != nil {
		return "", false, fmt.Errorf("approving it: %w", err)
	}
	s.event(s.u, journal.Normal, "Approved", "", fmt.Sprintf("%s %s of %s: %s", u.GetKind(), u.GetName(), run, a.Reason))
	return "", true, nil
}

// putConditions replaces the conditions of a request, and nothing else of it.
func putConditions(request *unstructured.Unstructured, conditions []metav1.Condition) error {
	var raw []any
	for i := range conditions {
		one, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&conditions[i])
		if err != nil {
			return fmt.Errorf("encoding its conditions: %w", err)
		}
		raw = append(raw, one)
	}
	return unstructured.SetNestedSlice(request.Object, raw, "status", "conditions")
}
