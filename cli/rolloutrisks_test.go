package cli

import (
	"strings"
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestRisksOf(t *testing.T) {
	template := map[string]any{"spec": map[string]any{"serviceAccountName": "default"}}
	workload := v1alpha1.WorkloadChange{Namespace: "telemetry", Name: "agent", Template: template}
	for name, tc := range map[string]struct {
		change    v1alpha1.RolloutChange
		want, err string
	}{
		"a DaemonSet":           {change: v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: workload}}, want: "no-service-account DaemonSet telemetry/agent"},
		"an Advanced DaemonSet": {change: v1alpha1.RolloutChange{AdvancedDaemonSet: &v1alpha1.AdvancedDaemonSetChange{WorkloadChange: workload}}, want: "no-service-account DaemonSet telemetry/agent"},
		"a patch":               {change: v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Name: "agent", Patch: template}}}},
		"a manifest that is none": {
			change: v1alpha1.RolloutChange{Manifests: []map[string]any{{"apiVersion": "v1", "kind": "Namespace"}, {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "rules": "all"}}},
			err:    "change.manifests[1]: Invalid value: parsing ClusterRole: ",
		},
		"a template that is none": {
			change: v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Template: map[string]any{"spec": 1}}}},
			err:    "change.daemonSet.template: Invalid value: parsing DaemonSet: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			risks, errs := risksOf(tc.change)
			if tc.err != "" {
				if err := errs.ToAggregate(); err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %s", err, tc.err)
				}
				return
			}
			var got []string
			for _, r := range risks {
				got = append(got, r.Name+" "+r.Object)
			}
			if strings.Join(got, ", ") != tc.want || len(errs) > 0 {
				t.Errorf("found %q, %v, want %q", got, errs, tc.want)
			}
		})
	}
}
