// Package nodecondition is the action that reports the nodes of a change as sick.
package nodecondition

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/changed"
)

// again is how often a node is reported sick: whoever simulates its kubelet reports what it believes, every five minutes or so.
const again = 10 * time.Second

type action struct {
	condition corev1.NodeConditionType
	change    *changed.Change
	sick      map[string]time.Time // nodes that are reported as such, and when that was accepted last
}

// New returns the action.
func New(spec v1alpha1.NodeConditionAction, env drill.Env) (drill.Action, error) {
	change, err := changed.By(spec.Of, env)
	if err != nil {
		return nil, err
	}
	a := &action{condition: corev1.NodeConditionType(spec.Type), change: change, sick: map[string]time.Time{}}
	return changed.Reporting(change, env, a.report), nil
}

// report makes the nodes of these pods sick, and those well that were and have none of them any more.
func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	now := changed.Nodes(pods)
	var errs []error
	for _, node := range slices.Sorted(maps.Keys(now)) {
		told := a.sick[node]
		a.sick[node] = told // also when the answer is lost: it is to be put right then
		if time.Since(told) < again {
			continue
		}
		err := a.set(ctx, node, corev1.ConditionTrue)
		if err == nil {
			a.sick[node] = time.Now()
		}
		errs = append(errs, err)
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
