// Package hub carries out Rollouts that are objects of a hub cluster. What a run goes on from is in the journal, as for one that
// is run from a file; the object says what is wanted, and is told how far it is.
package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/seakeep/seakeep/api/hub"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Kind is what is watched.
var Kind = schema.GroupVersionKind{Group: "seakeep.dev", Version: "v1alpha1", Kind: v1alpha1.KindRollout}

// Options are what the controller needs.
type Options struct {
	Runs Runs
	// StateDir holds the journal.
	StateDir string
	// Every is how often the status is written while a run is under way, > 0.
	Every time.Duration
	// Retry is how long after a refusal that may pass (a cluster that does not answer) is tried again, > 0.
	Retry time.Duration
	Log   *slog.Logger
}

// Add adds the controller to a manager, which elects a leader and watches one namespace.
func Add(m manager.Manager, o Options) error {
	c := &crew{runs: o.Runs, dir: o.StateDir, log: o.Log, hands: map[types.NamespacedName]*hand{}}
	if err := m.Add(c); err != nil {
		return err
	}
	r := &reconciler{Options: o, client: m.GetClient(), known: m.GetCache(), events: m.GetEventRecorder("seakeep-rollout"), crew: c}
	return builder.ControllerManagedBy(m).Named("rollout").
		For(object(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Complete(r)
}

func object() *unstructured.Unstructured {
	u := new(unstructured.Unstructured)
	u.SetGroupVersionKind(Kind)
	return u
}

type reconciler struct {
	Options
	client client.Client
	// known has the namespace's Rollouts, as the watch last told of them.
	known  client.Reader
	events events.EventRecorder
	crew   *crew
	// servedKinds are which of KubeFleet's kinds the hub had when it was last asked.
	servedKinds sync.Map
}

// scope is one reconcile.
type scope struct {
	*reconciler
	name   types.NamespacedName
	u      *unstructured.Unstructured
	was    hub.RolloutStatus
	status hub.RolloutStatus
	j      *journal.Journal
	// newest is the newest run of the rollout; nil when it has none.
	newest *journal.Run
}

// Reconcile implements reconcile.Reconciler: it reads the object, decides, and writes the status on every way out.
func (r *reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	s := &scope{reconciler: r, name: request.NamespacedName, u: object(), j: r.crew.journal()}
	if s.j == nil {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if err := r.client.Get(ctx, s.name, s.u); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	s.was, s.status = statusOf(s.u), statusOf(s.u)
	var err error
	if s.newest, err = s.j.Newest(s.name.Name); err != nil {
		return reconcile.Result{}, err
	}
	if s.u.GetDeletionTimestamp() != nil {
		return s.delete(ctx)
	}
	if controllerutil.AddFinalizer(s.u, hub.Finalizer) {
		if err := r.client.Update(ctx, s.u); err != nil {
			return reconcile.Result{}, err
		}
	}
	// First, so that a hand that is put to work finds it.
	if err := s.order(ctx); err != nil {
		return reconcile.Result{}, err
	}
	again := s.carry()
	s.show()
	s.approve(ctx)
	return reconcile.Result{RequeueAfter: again}, s.write(ctx)
}

// carry decides what is done for the object: go on with what is under way, rest, refuse, or begin. It returns when to ask again.
func (s *scope) carry() time.Duration {
	s.status.ObservedGeneration = s.u.GetGeneration()
	rollout, invalid := read(s.u)
	h := s.crew.of(s.name)
	if h != nil {
		over, at, err := h.ended()
		if !over {
			s.agree(rollout, invalid)
			return s.Every
		}
		if err != nil {
			s.condition(hub.Accepted, false, "Refused", err.Error())
			if left := s.Retry - time.Since(at); left > 0 && s.status.ObservedGeneration == s.was.ObservedGeneration {
				return left
			}
		}
		s.crew.end(s.name)
	}
	underway := s.newest != nil && !s.newest.Phase.Over()
	rollback := s.newest != nil && s.newest.Phase == journal.Completed && s.laid(journal.Rollback)
	switch {
	case underway, rollback:
		s.agree(rollout, invalid)
		s.begin(s.newest.ID, nil)
	case invalid != nil:
		s.condition(hub.Accepted, false, "Invalid", invalid.Error())
		return 0
	case s.done(rollout):
		s.condition(hub.Accepted, true, "Valid", "the spec was carried out by run "+s.newest.ID)
		return 0
	case s.status.Run != "" && !journal.Phase(s.status.Phase).Over() && s.status.Phase != "" && (s.newest == nil || s.newest.ID != s.status.Run):
		s.condition(hub.Accepted, false, "JournalLost", fmt.Sprintf("run %s is under way and is not in the journal in %s: give the controller the volume it began with", s.status.Run, s.StateDir))
		return s.Retry
	default:
		if h == nil || s.status.ObservedGeneration != s.was.ObservedGeneration {
			s.condition(hub.Accepted, true, "Valid", "the spec is valid; the clusters are surveyed")
		}
		s.begin("", rollout)
	}
	return s.Every
}

// laid is true when an order for the newest run lies there and nobody has taken it.
func (s *scope) laid(verb journal.Verb) bool {
	orders, _, err := journal.Orders(s.j.Dir())
	if err != nil {
		s.Log.Warn("Orders cannot be read", "err", err)
	}
	return slices.ContainsFunc(orders, func(o journal.Placed) bool { return o.Run == s.newest.ID && o.Verb == verb })
}

// done is true when the newest run did what the spec says.
func (s *scope) done(rollout *v1alpha1.Rollout) bool {
	if s.newest == nil || s.newest.Origin == nil || s.newest.Origin.UID != string(s.u.GetUID()) {
		return false
	}
	hash, err := journal.Hash(rollout)
	// The generation besides: a newer program may have other defaults, and that is no new rollout.
	return s.newest.Origin.Generation == s.u.GetGeneration() || err == nil && hash == s.newest.Hash
}

// agree says whether what is carried out is what the spec says.
func (s *scope) agree(rollout *v1alpha1.Rollout, invalid error) {
	if s.newest == nil {
		return
	}
	hash := ""
	if invalid == nil {
		hash, _ = journal.Hash(rollout) // what was just decoded can be encoded
	}
	same := s.newest.Origin != nil && s.newest.Origin.UID == string(s.u.GetUID()) && s.newest.Origin.Generation == s.u.GetGeneration()
	if same || hash == s.newest.Hash {
		s.condition(hub.Accepted, true, "Valid", "the spec is carried out by run "+s.newest.ID)
		return
	}
	why := fmt.Sprintf("run %s goes on as it was planned; the spec says something else since, and that is carried out when the run is over (annotate %s=abort or rollback to end it)", s.newest.ID, hub.OrderAnnotation)
	if invalid != nil {
		why += ", if it is made valid: " + invalid.Error()
	}
	s.condition(hub.Accepted, false, "SpecChanged", why)
}

// begin puts a hand to work on the run; on a new one when run is "".
func (s *scope) begin(run string, rollout *v1alpha1.Rollout) {
	origin := journal.Origin{UID: string(s.u.GetUID()), Generation: s.u.GetGeneration()}
	about := s.u.DeepCopy()
	s.crew.begin(s.name, func(ctx context.Context, j *journal.Journal, h *hand) error {
		if run == "" {
			id, err := s.Runs.Begin(ctx, j, rollout, origin)
			if err != nil {
				return err
			}
			run = id
		}
		_, err := s.Runs.Carry(ctx, j, run, func(view func() engine.View) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.view = view
		}, func(e journal.Event) {
			// Of what is well on one cluster only a wait for somebody else is told: else nothing would say why nothing moves.
			if e.Type == journal.Warning || e.Cluster == "" || e.Reason == "Waiting" {
				s.event(about, e.Type, e.Reason, e.Cluster, e.Message)
			}
		})
		return err
	})
}

// read decodes the object as its file would be: strictly, with the defaults, and validated by the same code.
func read(u *unstructured.Unstructured) (*v1alpha1.Rollout, error) {
	text := map[string]any{}
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	for field, value := range spec {
		text[field] = value
	}
	text["apiVersion"], text["kind"], text["name"] = v1alpha1.APIVersion, v1alpha1.KindRollout, u.GetName()
	data, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	docs, err := config.Parse(u.GetNamespace()+"/"+u.GetName(), data)
	if err != nil {
		return nil, err
	}
	r := docs[0].Object.(*v1alpha1.Rollout)
	if field := r.Analysis.NamesFile(); field != "" {
		return nil, fmt.Errorf("analysis.%s: an object may not have files of the controller read; write what is in them into analysis.metrics", field)
	}
	return r, nil
}

// order gives an order that the object is annotated with to the run, by the way that other shells give theirs, and takes it off.
// Who dies between the two gives it twice, which does no more than once.
func (s *scope) order(ctx context.Context) error {
	text := strings.Fields(s.u.GetAnnotations()[hub.OrderAnnotation])
	if len(text) == 0 || s.newest == nil && s.crew.of(s.name) != nil {
		return nil // there is no run yet to give it to
	}
	why := ""
	switch {
	case s.newest == nil:
		why = "there is no run"
	case s.newest.Phase.Over() && !(s.newest.Phase == journal.Completed && text[0] == string(journal.Rollback)):
		why = fmt.Sprintf("run %s is over: %s", s.newest.ID, s.newest.Phase)
	default:
		o := journal.Order{Run: s.newest.ID, Verb: journal.Verb(text[0]), Task: strings.Join(text[1:], " "), By: "an annotation of " + s.name.String(), Why: s.u.GetAnnotations()[hub.ReasonAnnotation], At: time.Now()}
		if err := journal.Give(s.j.Dir(), o); err != nil {
			why = err.Error()
		}
	}
	if why != "" {
		s.event(s.u, journal.Warning, "OrderRefused", "", fmt.Sprintf("%s: %s", strings.Join(text, " "), why))
	} else {
		s.event(s.u, journal.Normal, "OrderTaken", "", strings.Join(text, " "))
	}
	off := []byte(fmt.Sprintf(`{"metadata":{"annotations":{%q:null,%q:null}}}`, hub.OrderAnnotation, hub.ReasonAnnotation))
	return s.client.Patch(ctx, s.u, client.RawPatch(types.MergePatchType, off))
}

// delete stops and freezes: nothing moves any more, forth or back, and the run is paused in the journal, where an object of the
// same name and spec finds it. A way back that was begun is gone to its end first.
func (s *scope) delete(ctx context.Context) (reconcile.Result, error) {
	if s.newest != nil && s.newest.Phase == journal.RollingBack {
		if err := s.order(ctx); err != nil { // abort ends a way back that does not come to its end
			return reconcile.Result{}, err
		}
		again := s.carry()
		s.show()
		return reconcile.Result{RequeueAfter: again}, s.write(ctx)
	}
	s.crew.end(s.name)
	var err error
	if s.newest, err = s.j.Newest(s.name.Name); err != nil { // it may have moved on until it stopped
		return reconcile.Result{}, err
	}
	if s.newest != nil && s.newest.Phase == journal.RollingBack {
		return reconcile.Result{RequeueAfter: time.Millisecond}, nil
	}
	if s.newest != nil && s.newest.Phase == journal.Running {
		run := *s.newest
		run.Phase, run.Reason = journal.Paused, "Deleted"
		run.Message = "the object was deleted: nothing moves until one of the same name and spec is there, and is annotated with " + hub.OrderAnnotation
		if err := s.j.PutRun(run); err != nil {
			return reconcile.Result{}, err
		}
		s.event(s.u, journal.Warning, run.Reason, "", run.Message)
	}
	controllerutil.RemoveFinalizer(s.u, hub.Finalizer)
	return reconcile.Result{}, client.IgnoreNotFound(s.client.Update(ctx, s.u))
}

// write writes the status, when it is another one.
func (s *scope) write(ctx context.Context) error {
	if equality.Semantic.DeepEqual(s.was, s.status) {
		return nil
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s.status)
	if err != nil {
		return fmt.Errorf("encoding the status of %s: %w", s.name, err)
	}
	s.u.Object["status"] = status
	if err := s.client.Status().Update(ctx, s.u); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the status of %s: %w", s.name, err)
	}
	return nil
}

// maxNote is what an event of Kubernetes may say.
const maxNote = 1024

func (s *scope) event(about *unstructured.Unstructured, kind, reason, cluster, message string) {
	if cluster != "" {
		message = cluster + ": " + message
	}
	s.events.Eventf(about, nil, kind, reason, "Rollout", "%s", verdict.Clip(message, maxNote))
}

// condition sets a condition, and tells of a new reason.
func (s *scope) condition(kind string, is bool, reason, message string) {
	if changed := setCondition(&s.status, kind, truth(is), reason, message, s.u.GetGeneration()); changed && kind == hub.Accepted && !is {
		s.event(s.u, journal.Warning, reason, "", message)
	}
}
