// Package daemonset steps a native DaemonSet node by node: the new template is written under OnDelete, which moves nothing, and
// then pods are deleted, each by its UID. When nobody deletes, nothing moves.
//
// RollingUpdate is never used, not even with a small maxUnavailable: it replaces old pods that are not ready outside its budget,
// so that a cluster that falls apart is rolled faster.
package daemonset

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// Target is one DaemonSet of one cluster. Its methods are called by one goroutine at a time.
type Target struct {
	// Cluster is the cluster's name, Client speaks to it, each request with a time-out of its own.
	Cluster string
	Client  kubernetes.Interface
	Change  v1alpha1.DaemonSetChange
	// Selector selects the nodes; nil: all.
	Selector *metav1.LabelSelector
	// Run is the run's id; UserAgents narrow whose requests the component's are.
	Run        string
	UserAgents []string
	// MakesNamespace is true when manifests beside it make its namespace, which need not exist while the run is planned.
	MakesNamespace bool

	daemons *target.Daemons
}

// own are the DaemonSet's nodes and pods.
func (t *Target) own() *target.Daemons {
	if t.daemons == nil {
		t.daemons = &target.Daemons{Cluster: t.Cluster, Client: t.Client, What: t.where(), Namespace: t.Change.Namespace, Nodes: t.Selector, Selector: t.selector}
		if t.Change.Install != nil {
			t.daemons.Enrolment = t.Change.Install.EnrolmentLabel
		}
	}
	return t.daemons
}

func (t *Target) where() string { return "DaemonSet " + t.Change.Namespace + "/" + t.Change.Name }

// get reads the DaemonSet.
func (t *Target) get(ctx context.Context) (*appsv1.DaemonSet, error) {
	ds, err := t.Client.AppsV1().DaemonSets(t.Change.Namespace).Get(ctx, t.Change.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.where(), err)
	}
	return ds, nil
}

func (t *Target) selector(ctx context.Context) (*metav1.LabelSelector, error) {
	ds, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	return ds.Spec.Selector, nil
}

// Survey says which nodes the change may come to. It refuses what cannot be stepped: a template that the API server refuses, one
// that is in force already, or one that changes which nodes the DaemonSet runs on, for that takes effect on all nodes at once.
func (t *Target) Survey(ctx context.Context) ([]plan.Node, error) {
	pins, err := t.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := t.own().List(ctx, pins)
	if err != nil {
		return nil, err
	}
	return target.Survey(nodes), nil
}

// Prepare pins what there is and what is to be, and writes nothing.
func (t *Target) Prepare(ctx context.Context) (target.Pins, error) {
	if t.Change.Install != nil {
		return t.prepareInstall(ctx)
	}
	ds, err := t.get(ctx)
	if err != nil {
		return target.Pins{}, err
	}
	next, err := t.next(&ds.Spec.Template)
	if err != nil {
		return target.Pins{}, err
	}
	if err := target.PlacedAlike(&ds.Spec.Template, next, "change.daemonSet.install"); err != nil {
		return target.Pins{}, fmt.Errorf("%s: %w", t.where(), err)
	}
	// The API server fills in what is left out, and says what is wrong, before anything is written.
	changed := ds.DeepCopy()
	t.rewrite(changed, *next)
	dry, err := t.Client.AppsV1().DaemonSets(ds.Namespace).Update(ctx, changed, metav1.UpdateOptions{FieldManager: target.FieldManager, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return target.Pins{}, fmt.Errorf("trying the new template on %s: %w", t.where(), err)
	}
	if equality.Semantic.DeepEqual(dry.Spec.Template, ds.Spec.Template) {
		return target.Pins{}, fmt.Errorf("%s has this template already: %w", t.where(), target.ErrNothing)
	}
	pins := target.Pins{Object: string(ds.UID)}
	if pins.Before, err = json.Marshal(ds.Spec.Template); err != nil {
		return target.Pins{}, err
	}
	if pins.After, err = json.Marshal(dry.Spec.Template); err != nil {
		return target.Pins{}, err
	}
	if ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
		if pins.Strategy, err = json.Marshal(ds.Spec.UpdateStrategy); err != nil {
			return target.Pins{}, err
		}
	}
	pins.Stable, err = t.revision(ctx, ds, pins.Before)
	return pins, err
}

// next is the new template, as the file says it.
func (t *Target) next(before *corev1.PodTemplateSpec) (*corev1.PodTemplateSpec, error) {
	after, err := target.NextTemplate(t.Change.WorkloadChange, before)
	if err != nil {
		return nil, fmt.Errorf("change.daemonSet.%w", err)
	}
	return after, nil
}

// rewrite is the one write that brings the change: template and strategy together, so that nobody ever sees the new template
// under RollingUpdate.
func (t *Target) rewrite(ds *appsv1.DaemonSet, template corev1.PodTemplateSpec) {
	ds.Spec.Template = template
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	if ds.Annotations == nil {
		ds.Annotations = map[string]string{}
	}
	ds.Annotations[target.RunAnnotation] = t.Run
}

// Begin writes the new template, if it is not there yet, and pins its revision.
func (t *Target) Begin(ctx context.Context, pins target.Pins) (target.Pins, error) {
	var ds *appsv1.DaemonSet
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		ds, err = t.begin(ctx, pins)
		return err
	})
	if err != nil {
		return pins, err
	}
	pins.Object = string(ds.UID)
	pins.Update, err = t.revision(ctx, ds, pins.After)
	return pins, err
}

func (t *Target) begin(ctx context.Context, pins target.Pins) (*appsv1.DaemonSet, error) {
	if t.Change.Install != nil && pins.Object == "" {
		return t.create(ctx, pins)
	}
	ds, err := t.mine(ctx, pins)
	if err != nil || is(ds, pins.After) {
		return ds, err
	}
	return t.write(ctx, ds, pins.After)
}

// write puts a template in force, against the version that was read. The controller writes its status all the time, so that
// who calls it reads and tries again on a conflict.
func (t *Target) write(ctx context.Context, ds *appsv1.DaemonSet, template json.RawMessage) (*appsv1.DaemonSet, error) {
	var next corev1.PodTemplateSpec
	if err := json.Unmarshal(template, &next); err != nil {
		return nil, fmt.Errorf("reading the pinned template of %s: %w", t.where(), err)
	}
	t.rewrite(ds, next)
	written, err := t.Client.AppsV1().DaemonSets(ds.Namespace).Update(ctx, ds, metav1.UpdateOptions{FieldManager: target.FieldManager})
	if err != nil {
		return nil, fmt.Errorf("writing the template of %s: %w", t.where(), err)
	}
	return written, nil
}

// mine reads the DaemonSet and refuses it when it is not the one that was pinned, with one of the two templates that were.
func (t *Target) mine(ctx context.Context, pins target.Pins) (*appsv1.DaemonSet, error) {
	ds, err := t.get(ctx)
	if err := pins.Pinned(t.where(), ds, err); err != nil {
		return nil, err
	}
	if !is(ds, pins.Before) && !is(ds, pins.After) && !t.letGo(ds, pins) {
		return nil, target.Foreign(t.where(), target.NeitherTemplate, ds)
	}
	return ds, nil
}

// stepped is mine for the time in which the new template is in force.
func (t *Target) stepped(ctx context.Context, pins target.Pins) (*appsv1.DaemonSet, error) {
	ds, err := t.mine(ctx, pins)
	if err != nil || pins.Update == "" {
		return ds, err
	}
	if ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
		return nil, target.Foreign(t.where(), fmt.Sprintf("is no longer under OnDelete but %s", ds.Spec.UpdateStrategy.Type), ds)
	}
	return ds, nil
}

// is compares a template with a pinned one.
func is(ds *appsv1.DaemonSet, pinned json.RawMessage) bool {
	return target.IsTemplate(ds.Spec.Template, pinned)
}

// revision waits for the controller to have made a revision of the template, and returns its name.
func (t *Target) revision(ctx context.Context, ds *appsv1.DaemonSet, template json.RawMessage) (string, error) {
	return t.own().AwaitRevision(ctx, ds.UID, ds.Spec.Selector, template, "controller-manager")
}

// Rights are those that the way back needs.
func (t *Target) Rights(target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	own := authorizationv1.ResourceAttributes{Group: "apps", Resource: "daemonsets", Namespace: t.Change.Namespace, Name: t.Change.Name}
	if t.Change.Install == nil {
		return append(t.own().Rights("delete"), target.Verbs(own, "get", "update")...), nil
	}
	nodes := target.Verbs(authorizationv1.ResourceAttributes{Resource: "nodes"}, "patch")
	return slices.Concat(t.own().Rights(), nodes, target.Verbs(own, "get", "create", "update", "delete")), nil
}

// Component is the workload as the ladder must know it.
func (t *Target) Component(ctx context.Context, pins target.Pins) (jail.Component, error) {
	return t.own().Component(ctx, pins, jail.Component{
		Cluster: t.Cluster, Kind: "DaemonSet", Namespace: t.Change.Namespace, Name: t.Change.Name, UserAgents: t.UserAgents, Rollout: t.Run,
	})
}
