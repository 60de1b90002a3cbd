// Package podstatus is the action that reports of the containers of a change what a kubelet would: that they crash, or are not
// ready.
package podstatus

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/changed"
)

type action struct {
	spec   v1alpha1.PodStatusAction
	change *changed.Change
}

// New returns the action.
func New(spec v1alpha1.PodStatusAction, env drill.Env) (drill.Action, error) {
	change, err := changed.By(spec.Of, env)
	if err != nil {
		return nil, err
	}
	a := &action{spec: spec, change: change}
	return changed.Reporting(change, env, a.report), nil
}

func (a *action) report(ctx context.Context, pods []corev1.Pod) error {
	for i := range pods {
		if p := &pods[i]; becomes(p, a.spec, time.Now()) {
			if err := a.change.ReportPod(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// becomes changes what is reported of a pod; false when it is that already, or its container has not started.
func becomes(p *corev1.Pod, spec v1alpha1.PodStatusAction, now time.Time) bool {
	if p.Status.StartTime == nil || len(p.Status.ContainerStatuses) == 0 {
		return false
	}
	c := &p.Status.ContainerStatuses[0]
	runs := now.Sub(p.Status.StartTime.Time)
	switch {
	case spec.State == v1alpha1.PodCrashLoop:
		restarts := int32(runs / time.Second)
		if !c.Ready && c.RestartCount >= restarts {
			return false
		}
		changed.SetReady(p, false)
		c.RestartCount = restarts
		c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	default:
		ready := spec.For.Duration > 0 && runs > spec.For.Duration
		if c.Ready == ready {
			return false
		}
		changed.SetReady(p, ready)
	}
	return true
}
