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
	all    map[string]bool                     // nodes of which all neighbours are reported
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

// report makes the neighbours of these pods sick, once each node, and replaces those of nodes that have none of these any more.
func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	var errs []error
	now := changed.Nodes(pods)
	for node := range now {
		if !a.all[node] {
			err := a.harm(ctx, node)
			a.all[node] = err == nil
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

func (a *action) harm(ctx context.Context, node string) error {
	all, err := a.change.List(ctx, "/api/v1/pods?fieldSelector=spec.nodeName%3D"+node)
	if err != nil {
		return err
	}
	if a.sick[node] == nil {
		a.sick[node] = map[types.UID]corev1.Pod{}
	}
	var errs []error
	for _, p := range all {
		if p.Namespace == a.change.Namespace || p.DeletionTimestamp != nil {
			continue
		}
		a.sick[node][p.UID] = p
		changed.SetReady(&p, false)
		errs = append(errs, a.change.ReportPod(ctx, &p))
	}
	return errors.Join(errs...)
}
