package podstatus

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestBecomes(t *testing.T) {
	const crash, unready = v1alpha1.PodCrashLoop, v1alpha1.PodNotReady
	now := time.Now()
	for name, tc := range map[string]struct {
		state    v1alpha1.PodState
		lasts    time.Duration // For
		runs     time.Duration // since its start; 0: it has not started
		restarts int32
		ready    bool

		changes      bool
		wantRestarts int32
		wantReady    bool
	}{
		"not started":            {state: crash, ready: true, wantReady: true},
		"crashes":                {state: crash, runs: 3 * time.Second, ready: true, changes: true, wantRestarts: 3},
		"has crashed":            {state: crash, runs: 3 * time.Second, restarts: 3, wantRestarts: 3},
		"crashes again":          {state: crash, runs: 4 * time.Second, restarts: 3, changes: true, wantRestarts: 4},
		"is not ready":           {state: unready, runs: time.Hour, ready: true, changes: true},
		"stays so":               {state: unready, runs: time.Hour},
		"not for long":           {state: unready, lasts: 2 * time.Second, runs: time.Second, ready: true, changes: true},
		"not any more":           {state: unready, lasts: 2 * time.Second, runs: 3 * time.Second, changes: true, wantReady: true},
		"not any more, and says": {state: unready, lasts: 2 * time.Second, runs: 3 * time.Second, ready: true, wantReady: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Ready: tc.ready, RestartCount: tc.restarts}}}}
			for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.ContainersReady, corev1.PodReady} {
				status := corev1.ConditionTrue
				if !tc.ready && kind != corev1.PodScheduled {
					status = corev1.ConditionFalse
				}
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: status})
			}
			if tc.runs > 0 {
				p.Status.StartTime = &metav1.Time{Time: now.Add(-tc.runs)}
			}
			if changes := becomes(p, v1alpha1.PodStatusAction{State: tc.state, For: metav1.Duration{Duration: tc.lasts}}, now); changes != tc.changes {
				t.Errorf("it changes: %t", changes)
			}
			s := p.Status.ContainerStatuses[0]
			if s.RestartCount != tc.wantRestarts || s.Ready != tc.wantReady {
				t.Errorf("%d restarts, ready %t", s.RestartCount, s.Ready)
			}
			for _, c := range p.Status.Conditions {
				if want := tc.wantReady || c.Type == corev1.PodScheduled; (c.Status == corev1.ConditionTrue) != want {
					t.Errorf("condition %s is %s", c.Type, c.Status)
				}
			}
		})
	}
}
