// Package neighbours is the action that reports the other pods of a change's nodes as not ready, while the nodes say nothing.
package neighbours

import (
	"context"
	"errors"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/changed"
)

type action struct {
	change *changed.Change
	beside func(drill.Beside)

	mu   sync.Mutex
	sick map[string]map[types.UID]corev1.Pod // by node
	all  map[string]bool                     // nodes of which all neighbours are reported
}

// New returns the action.
func New(spec v1alpha1.NeighboursAction, env drill.Env) (drill.Action, error) {
	change, err := changed.By(spec.Of, env)
	return &action{change: change, beside: env.Beside, sick: map[string]map[types.UID]corev1.Pod{}, all: map[string]bool{}}, err
}

// Do implements drill.Action: it begins to report.
func (a *action) Do(context.Context) error {
	a.beside(drill.Beside{
		While: func(ctx context.Context) { a.change.Follow(ctx, a.report) },
		Undo: func(ctx context.Context) error {
			defer a.change.Caller.Close()
			return a.report(ctx, nil)
		},
	})
	return nil
}

// report makes the neighbours of these pods sick, once each node, and replaces those of nodes that have none of these any more.
func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	now := map[string]bool{}
	for _, p := range pods {
		node := p.Spec.NodeName
		if now[node] = true; node != "" && !a.all[node] {
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
		errs = append(errs, a.change.Report(ctx, &p))
	}
	return errors.Join(errs...)
}
