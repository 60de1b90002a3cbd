// Package nodecondition is the action that reports the nodes of a change as sick.
package nodecondition

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/changed"
)

type action struct {
	condition corev1.NodeConditionType
	change    *changed.Change
	beside    func(drill.Beside)

	mu   sync.Mutex
	sick map[string]bool // nodes that are reported as such
}

// New returns the action.
func New(spec v1alpha1.NodeConditionAction, env drill.Env) (drill.Action, error) {
	change, err := changed.By(spec.Of, env)
	return &action{condition: corev1.NodeConditionType(spec.Type), change: change, beside: env.Beside, sick: map[string]bool{}}, err
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

// report makes the nodes of these pods sick, and those well that were and have none of them any more.
func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			now[p.Spec.NodeName] = true
		}
	}
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(now)) {
		if a.sick[node] {
			continue
		}
		a.sick[node] = true // also when the answer is lost: it is to be put right then
		errs = append(errs, a.set(ctx, node, corev1.ConditionTrue))
	}
	for _, node := range slices.Sorted(maps.Keys(a.sick)) {
		if now[node] {
			continue
		}
		err := a.set(ctx, node, corev1.ConditionFalse)
		if err == nil {
			delete(a.sick, node)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (a *action) set(ctx context.Context, node string, status corev1.ConditionStatus) error {
	return a.change.ReportNode(ctx, node, corev1.NodeCondition{Type: a.condition, Status: status, LastTransitionTime: metav1.Now(), Reason: "Drill"})
}
