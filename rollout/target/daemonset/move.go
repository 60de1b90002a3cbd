package daemonset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// Move makes moves: forth, or back. A pod that is gone already, or another one, is left alone: then somebody else has moved it.
func (t *Target) Move(ctx context.Context, _ target.Pins, moves []plan.Move, back bool) error {
	var errs []error
	for _, m := range moves {
		switch {
		case t.Change.Install != nil:
			errs = append(errs, t.enrol(ctx, m.Node, !back))
		case m.Pod == "":
			errs = append(errs, fmt.Errorf("BUG: a move of node %s without a pod", m.Node))
		default:
			errs = append(errs, t.own().DeletePod(ctx, m))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// Revert puts the template from before back in force. Under OnDelete that moves nothing either: the pods are moved after.
func (t *Target) Revert(ctx context.Context, pins target.Pins) error {
	if t.Change.Install != nil { // nodes are taken out again, and then the DaemonSet is deleted
		return retry.RetryOnConflict(retry.DefaultBackoff, func() error { return t.hold(ctx, pins) })
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ds, err := t.mine(ctx, pins)
		if err != nil || is(ds, pins.Before) {
			return err
		}
		_, err = t.write(ctx, ds, pins.Before)
		return err
	})
}

// Finish ends the run on this cluster: the strategy from before is put back, and what the run wrote for itself is taken away.
// For a DaemonSet that is new, the node selector is dropped, or after the way back the DaemonSet.
func (t *Target) Finish(ctx context.Context, pins target.Pins, back bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error { return t.finish(ctx, pins, back) })
}

func (t *Target) finish(ctx context.Context, pins target.Pins, back bool) error {
	if t.Change.Install != nil {
		ds, err := t.get(ctx)
		switch {
		case apierrors.IsNotFound(err) && back:
			return nil
		case err != nil:
			return err
		case string(ds.UID) != pins.Object:
			return fmt.Errorf("%s is another object of the same name: %w", t.where(), target.ErrGone)
		}
		return t.finishInstall(ctx, ds, back)
	}
	ds, err := t.mine(ctx, pins)
	if err != nil {
		return err
	}
	if ds.Annotations[target.RunAnnotation] != t.Run {
		return nil // finished before
	}
	delete(ds.Annotations, target.RunAnnotation)
	if pins.Strategy != nil {
		var strategy appsv1.DaemonSetUpdateStrategy
		if err := json.Unmarshal(pins.Strategy, &strategy); err != nil {
			return fmt.Errorf("reading the pinned strategy of %s: %w", t.where(), err)
		}
		ds.Spec.UpdateStrategy = strategy
	}
	if _, err := t.Client.AppsV1().DaemonSets(ds.Namespace).Update(ctx, ds, metav1.UpdateOptions{FieldManager: target.FieldManager}); err != nil {
		return fmt.Errorf("finishing %s: %w", t.where(), err)
	}
	return nil
}
