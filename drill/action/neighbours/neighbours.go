// Package neighbours is the action that reports the other pods of a change's nodes as not ready, while the nodes say nothing.
package neighbours

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/changed"
)

type action struct {
	change *changed.Change
	sick   map[string]map[types.UID]corev1.Pod // by node
	all    map[string]bool                     // nodes of which all neighbours were seen to be reported
}

// New returns the action.
func New(spec v1alpha1.NeighboursAction, env drill.Env) (drill.Action, error) {
	change, err := changed.By(spec.Of, env)
	if err != nil {
		return nil, err
	}
	a := &action{change: change, sick: map[string]map[types.UID]corev1.Pod{}, all: map[string]bool{}}
	return changed.Reporting(change, env, a.report), nil
}

// report makes the neighbours of these pods sick, until all of a node's are seen to be, and replaces those of nodes that have none of
// these any more.
func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	var errs []error
	now := changed.Nodes(pods)
	for node := range now {
		if !a.all[node] {
			all, err := a.harm(ctx, node)
			a.all[node] = all
			errs = append(errs, err)
		}
	}
	for node, sick := range a.sick {
		if now[node] {
			continue
		}
		for uid, p := range sick {
			err := a.change.Delete(ctx, &p)
			if err == nil {
				delete(sick, uid)
			}
			errs = append(errs, err)
		}
		if len(sick) == 0 {
			delete(a.sick, node)
			delete(a.all, node)
		}
	}
	return errors.Join(errs...)
}

// harm returns whether all of a node's neighbours were sick before: a report that somebody else's came before is lost.
func (a *action) harm(ctx context.Context, node string) (all bool, err error) {
	pods, err := a.change.List(ctx, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+node)
	if err != nil {
		return false, err
	}
	if a.sick[node] == nil {
		a.sick[node] = map[types.UID]corev1.Pod{}
	}
	var errs []error
	all = true
	for _, p := range pods {
		if p.Namespace == a.change.Namespace || p.DeletionTimestamp != nil {
			continue
		}
		switch readiness(&p) {
		case corev1.ConditionTrue:
			all = false
			a.sick[node][p.UID] = p
			changed.SetReady(&p, false)
			errs = append(errs, a.change.ReportPod(ctx, &p))
		case corev1.ConditionUnknown: // it has not started
			all = false
		}
	}
	return all, errors.Join(errs...)
}

// readiness is what is said of a pod.
func readiness(p *corev1.Pod) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}
