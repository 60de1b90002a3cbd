package limit

import (
	"net/netip"
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func TestMatch(t *testing.T) {
	node := func(f *flow.Request) {
		f.Caller.User, f.Verb, f.Resource, f.APIGroup = "system:node:n1", "update", "leases", "coordination.k8s.io"
		f.Scope, f.Namespace, f.Name = v1alpha1.ScopeObject, "kube-node-lease", "n1"
	}
	pod := func(name string) func(*flow.Request) {
		return func(f *flow.Request) {
			f.Caller.Extra = map[string][]string{"authentication.kubernetes.io/pod-name": {name}}
		}
	}
	tests := map[string]struct {
		match v1alpha1.LimitMatch
		yes   []*flow.Request
		no    []*flow.Request
	}{
		"everything": {v1alpha1.LimitMatch{}, []*flow.Request{request("u")}, []*flow.Request{request("u", func(f *flow.Request) { f.Lane = flow.BreakGlass })}},
		"user agent": {v1alpha1.LimitMatch{UserAgents: []string{"agent/*"}}, []*flow.Request{request("u")}, []*flow.Request{request("u", func(f *flow.Request) { f.UserAgent = "kubectl" })}},
		"user":       {v1alpha1.LimitMatch{Users: []string{"a", "b*"}}, []*flow.Request{request("a"), request("bc")}, []*flow.Request{request("c")}},
		"group": {v1alpha1.LimitMatch{Groups: []string{"x", "system:authenticated"}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Caller.Groups = nil })}},
		"service account": {v1alpha1.LimitMatch{ServiceAccountNamespaces: []string{"mon"}}, []*flow.Request{request("system:serviceaccount:mon:a")},
			[]*flow.Request{request("system:serviceaccount:monitor:a"), request("mon"), request("system:serviceaccount:mon")}},
		"pod": {v1alpha1.LimitMatch{Pods: []string{"mon/agent-*"}}, []*flow.Request{request("system:serviceaccount:mon:a", pod("agent-x"))},
			[]*flow.Request{request("system:serviceaccount:mon:a", pod("other")), request("system:serviceaccount:mon:a"), request("system:serviceaccount:web:a", pod("agent-x")), request("a", pod("agent-x"))}},
		"list includes initial events": {v1alpha1.LimitMatch{Verbs: []string{"list"}},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Verb, f.InitialEvents = "watch", true })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Verb = "watch" }), request("a", get), request("a", func(f *flow.Request) { f.Verb = "brew" })}},
		"resource": {v1alpha1.LimitMatch{Resources: []string{"pods"}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Subresource = "log" }), request("a", func(f *flow.Request) { f.Resource = "nodes" })}},
		"subresource": {v1alpha1.LimitMatch{Resources: []string{"pods/log", "*/scale"}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Subresource = "log" }), request("a", func(f *flow.Request) { f.Resource, f.Subresource = "deployments", "scale" })},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Resource, f.Subresource = "nodes", "log" })}},
		"all resources": {v1alpha1.LimitMatch{Resources: []string{"*"}}, []*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Subresource = "log" })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Resource, f.Scope = "", v1alpha1.ScopeNonResource })}},
		"core group": {v1alpha1.LimitMatch{APIGroups: []string{""}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.APIGroup = "apps" }), request("a", func(f *flow.Request) { f.Resource, f.Scope = "", v1alpha1.ScopeNonResource })}},
		"name":      {v1alpha1.LimitMatch{Names: []string{"*"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a")}},
		"namespace": {v1alpha1.LimitMatch{Namespaces: []string{"def*"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a")}},
		"scope":     {v1alpha1.LimitMatch{Scopes: []v1alpha1.RequestScope{v1alpha1.ScopeCluster}}, []*flow.Request{request("a")}, []*flow.Request{request("a", get)}},
		"path": {v1alpha1.LimitMatch{NonResourcePaths: []string{"/debug/*"}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Resource, f.Scope, f.Path = "", v1alpha1.ScopeNonResource, "/debug/pprof" })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Path = "/debug/pprof" })}},
		"source": {v1alpha1.LimitMatch{SourceCIDRs: []string{"10.1.0.0/16", "fd00::/8"}},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("fd12::1") })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.2.0.1") }), request("a", func(f *flow.Request) { f.Source = netip.Addr{} })}},
		"lane": {v1alpha1.LimitMatch{Lanes: []v1alpha1.LaneName{v1alpha1.LaneBreakGlass}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Lane = flow.BreakGlass })}, []*flow.Request{request("a")}},
		"own node": {v1alpha1.LimitMatch{OwnNode: true},
			[]*flow.Request{request("", node), request("", node, func(f *flow.Request) { f.Verb, f.Name = "create", "" })},
			[]*flow.Request{request("", node, func(f *flow.Request) { f.Name = "n2" }), request("", node, func(f *flow.Request) { f.Name = "" }),
				request("", node, func(f *flow.Request) { f.Caller.User = "unverified:10.0.0.1" }), request("", node, func(f *flow.Request) { f.Caller.User = "system:node:" })}},
		"all must": {v1alpha1.LimitMatch{Users: []string{"a"}, Verbs: []string{"get"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a"), request("b", get)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := compileMatch(&tc.match)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range tc.yes {
				if s := newSubject(f); !m.match(&s) {
					t.Errorf("request %d is not matched: %+v", i, f)
				}
			}
			for i, f := range tc.no {
				if s := newSubject(f); m.match(&s) {
					t.Errorf("request %d is matched: %+v", i, f)
				}
			}
		})
	}
}
