package limit

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestShippedRules(t *testing.T) {
	rules := Shipped()
	if errs := v1alpha1.ValidateLimitRules(rules, field.NewPath("limits")); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	names := make(map[string]bool)
	for _, r := range rules {
		names[r.Name] = true
		if !strings.HasPrefix(r.Name, v1alpha1.ShippedPrefix) {
			t.Errorf("%s lacks the prefix that keeps operators' names apart", r.Name)
		}
		if r.Action != v1alpha1.LimitThrottle {
			t.Errorf("%s is not capped", r.Name)
		}
	}
	for _, name := range neverDelayedRules {
		if !names[name] {
			t.Errorf("%s is not a shipped rule", name)
		}
	}
	var compiled []*rule
	for i := range rules {
		r, err := compileRule(&rules[i], nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, r)
	}
	lease := func(user, namespace, name string) *flow.Request {
		return request(user, func(f *flow.Request) {
			f.Verb, f.APIGroup, f.Resource, f.Scope = "update", "coordination.k8s.io", "leases", v1alpha1.ScopeObject
			f.Namespace, f.Name = namespace, name
		})
	}
	tests := map[string]struct {
		f    *flow.Request
		want string
	}{
		"own lease":            {lease("system:node:n1", "kube-node-lease", "n1"), "seakeep-own-lease"},
		"another's lease":      {lease("system:node:n1", "kube-node-lease", "n2"), ""},
		"leader election":      {lease("system:kube-scheduler", "kube-system", "kube-scheduler"), "seakeep-leader-election"},
		"a stranger's lease":   {lease("system:serviceaccount:apps:x", "apps", "x"), ""},
		"agent's LIST":         {request("system:serviceaccount:monitoring:telemetry"), "seakeep-cluster-reads"},
		"agent in kube-system": {request("system:serviceaccount:kube-system:telemetry"), "seakeep-cluster-reads"},
		"garbage collector":    {request("system:serviceaccount:kube-system:generic-garbage-collector"), "seakeep-control-plane-reads"},
		"scheduler":            {request("system:kube-scheduler"), "seakeep-control-plane-reads"},
		"namespace":            {request("a", func(f *flow.Request) { f.Scope, f.Namespace = v1alpha1.ScopeNamespace, "x" }), "seakeep-namespace-reads"},
		"watch list":           {request("a", func(f *flow.Request) { f.Verb, f.InitialEvents = "watch", true }), "seakeep-cluster-reads"},
		"watch":                {request("a", func(f *flow.Request) { f.Verb = "watch" }), ""},
		"get":                  {request("a", get), ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			s := newSubject(tc.f)
			for _, r := range compiled {
				if r.match.match(&s) {
					got = r.name
					break
				}
			}
			if got != tc.want {
				t.Errorf("decided by %q, want %q", got, tc.want)
			}
		})
	}
}
