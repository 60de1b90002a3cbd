package v1alpha1

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func one[T any](v T) *T { return &v }

func quantity(s string) *resource.Quantity { return one(resource.MustParse(s)) }

func deny(name string, m LimitMatch) LimitRule {
	return LimitRule{Name: name, Match: m, Action: LimitDeny}
}

func throttled(name string, m LimitMatch) LimitRule {
	return LimitRule{Name: name, Match: m, Action: LimitThrottle, Throttle: &Throttle{RequestsPerSecond: one(1.0)}}
}

func TestValidateLimitRules(t *testing.T) {
	tests := map[string]struct {
		rules []LimitRule
		// want are the fields of the violations; wantText a part of the first one's message.
		want     []string
		wantText string
	}{
		"good": {rules: []LimitRule{
			throttled("agents", LimitMatch{UserAgents: []string{"telemetry/*"}, Verbs: []string{"list"}}),
			deny("paths", LimitMatch{NonResourcePaths: []string{"/debug/*"}}),
			{Name: "bytes", Match: LimitMatch{Users: []string{"system:node:*"}, OwnNode: true}, Action: LimitThrottle,
				Throttle: &Throttle{BytesPerSecond: quantity("1Mi")}},
			{Name: "rest", Action: LimitAllow},
		}},
		"no name":          {[]LimitRule{deny("", LimitMatch{})}, []string{"limits[0].name"}, "clients are told"},
		"shouting":         {[]LimitRule{deny("NO", LimitMatch{})}, []string{"limits[0].name"}, "lower-case"},
		"reserved name":    {[]LimitRule{deny("seakeep-mine", LimitMatch{})}, []string{"limits[0].name"}, "ship with Seakeep"},
		"duplicate name":   {[]LimitRule{deny("a", LimitMatch{Users: []string{"x"}}), deny("a", LimitMatch{Users: []string{"y"}})}, []string{"limits[1].name"}, "Duplicate"},
		"no action":        {[]LimitRule{{Name: "a"}}, []string{"limits[0].action"}, "supported values"},
		"throttle missing": {[]LimitRule{{Name: "a", Action: LimitThrottle}}, []string{"limits[0].throttle"}, "at least one bound"},
		"throttle unused":  {[]LimitRule{{Name: "a", Action: LimitDeny, Throttle: &Throttle{}}}, []string{"limits[0].throttle"}, "Deny"},
		"throttle empty":   {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{}}}, []string{"limits[0].throttle"}, "requestsPerSecond"},
		"rate zero": {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{RequestsPerSecond: one(0.0)}}},
			[]string{"limits[0].throttle.requestsPerSecond"}, "> 0"},
		"burst alone": {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{Concurrency: one(1), Burst: one(1)}}},
			[]string{"limits[0].throttle.burst"}, "only with"},
		"bytes tiny": {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{BytesPerSecond: quantity("1"), BurstBytes: quantity("1Mi")}}},
			[]string{"limits[0].throttle.bytesPerSecond"}, "1Ki"},
		"concurrency zero": {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{Concurrency: one(0)}}},
			[]string{"limits[0].throttle.concurrency"}, "between 1"},
		"per whom": {[]LimitRule{{Name: "a", Action: LimitThrottle, Throttle: &Throttle{Concurrency: one(1), Per: "Planet"}}},
			[]string{"limits[0].throttle.per"}, "Planet"},
		"a user agent loosens": {[]LimitRule{{Name: "a", Match: LimitMatch{UserAgents: []string{"kubectl/*"}}, Action: LimitAllow}},
			[]string{"limits[0].match.userAgents"}, "never loosen"},
		"locks out repairers": {[]LimitRule{deny("a", LimitMatch{Lanes: []LaneName{LaneBreakGlass}})}, []string{"limits[0].match.lanes"}, "lock out"},
		"address for CIDR":    {[]LimitRule{deny("a", LimitMatch{SourceCIDRs: []string{"10.0.0.1"}})}, []string{"limits[0].match.sourceCIDRs[0]"}, "10.0.0.1/32"},
		"CIDR with host bits": {[]LimitRule{deny("a", LimitMatch{SourceCIDRs: []string{"10.1.2.3/8"}})}, []string{"limits[0].match.sourceCIDRs[0]"}, "10.0.0.0/8"},
		"mapped CIDR":         {[]LimitRule{deny("a", LimitMatch{SourceCIDRs: []string{"::ffff:10.0.0.0/104"}})}, []string{"limits[0].match.sourceCIDRs[0]"}, "never match"},
		"no CIDR":             {[]LimitRule{deny("a", LimitMatch{SourceCIDRs: []string{"", "x/8"}})}, []string{"limits[0].match.sourceCIDRs[0]", "limits[0].match.sourceCIDRs[1]"}, "CIDR"},
		"glob for group":      {[]LimitRule{deny("a", LimitMatch{Groups: []string{"system:*"}})}, []string{"limits[0].match.groups[0]"}, "exact"},
		"empty user":          {[]LimitRule{deny("a", LimitMatch{Users: []string{""}})}, []string{"limits[0].match.users[0]"}, "empty"},
		"unknown verb":        {[]LimitRule{deny("a", LimitMatch{Verbs: []string{"List"}})}, []string{"limits[0].match.verbs[0]"}, "list"},
		"bad resource":        {[]LimitRule{deny("a", LimitMatch{Resources: []string{"Pods"}})}, []string{"limits[0].match.resources[0]"}, "plural"},
		"relative path":       {[]LimitRule{deny("a", LimitMatch{NonResourcePaths: []string{"healthz"}})}, []string{"limits[0].match.nonResourcePaths[0]"}, "begins with /"},

		"path and resource": {[]LimitRule{deny("a", LimitMatch{NonResourcePaths: []string{"/x"}, Resources: []string{"pods"}})}, []string{"limits[0].match.nonResourcePaths"}, "never match"},
		"pods of a user":    {[]LimitRule{deny("a", LimitMatch{Pods: []string{"mon/agent-*"}, Users: []string{"alice"}})}, []string{"limits[0].match.pods"}, "never match"},
		"a pod without ns":  {[]LimitRule{deny("a", LimitMatch{Pods: []string{"agent-x"}})}, []string{"limits[0].match.pods[0]"}, "never match"},
		"path and scope":    {[]LimitRule{deny("a", LimitMatch{NonResourcePaths: []string{"/x"}, Scopes: []RequestScope{ScopeCluster}})}, []string{"limits[0].match.scopes"}, "NonResource"},
		"path and list":     {[]LimitRule{deny("a", LimitMatch{NonResourcePaths: []string{"/x"}, Verbs: []string{"list"}})}, []string{"limits[0].match.verbs"}, "HTTP method"},
		"post of pods":      {[]LimitRule{deny("a", LimitMatch{Resources: []string{"pods"}, Verbs: []string{"post"}})}, []string{"limits[0].match.verbs"}, "create"},
		"pods outside":      {[]LimitRule{deny("a", LimitMatch{Resources: []string{"pods"}, Scopes: []RequestScope{ScopeNonResource}})}, []string{"limits[0].match.scopes"}, "excludes"},
		"name of a list":    {[]LimitRule{deny("a", LimitMatch{Names: []string{"x"}, Scopes: []RequestScope{ScopeNamespace}})}, []string{"limits[0].match.scopes"}, "scope Object"},
		"name of a create":  {[]LimitRule{deny("a", LimitMatch{Names: []string{"x"}, Resources: []string{"pods"}, Verbs: []string{"create"}})}, []string{"limits[0].match.names"}, "create carries no name"},
		"namespace of all":  {[]LimitRule{deny("a", LimitMatch{Namespaces: []string{"x"}, Scopes: []RequestScope{ScopeCluster}})}, []string{"limits[0].match.namespaces"}, "in no namespace"},
		"own node of a user": {[]LimitRule{deny("a", LimitMatch{OwnNode: true, Users: []string{"system:serviceaccount:*", "admin"}})},
			[]string{"limits[0].match.ownNode"}, "can be a node"},
		"own node by a glob that can": {rules: []LimitRule{deny("a", LimitMatch{OwnNode: true, Users: []string{"*:worker-?"}})}},
		"service account of elsewhere": {[]LimitRule{deny("a", LimitMatch{ServiceAccountNamespaces: []string{"x"}, Users: []string{"system:serviceaccount:y:*"}})},
			[]string{"limits[0].match.serviceAccountNamespaces"}, "these namespaces"},

		"shadowed by a catch-all": {[]LimitRule{{Name: "all", Action: LimitAllow}, deny("late", LimitMatch{Verbs: []string{"list"}})},
			[]string{"limits[1].match"}, `"all"`},
		"shadowed field by field": {[]LimitRule{
			throttled("wide", LimitMatch{Users: []string{"system:serviceaccount:*"}, Verbs: []string{"get", "list"}, SourceCIDRs: []string{"10.0.0.0/8"}, Resources: []string{"*"}}),
			deny("narrow", LimitMatch{Users: []string{"system:serviceaccount:a:?"}, Verbs: []string{"list"}, SourceCIDRs: []string{"10.1.0.0/16"}, Resources: []string{"pods/log"}})},
			[]string{"limits[1].match"}, `"wide"`},
		"a user agent's throttle shadows nothing": {rules: []LimitRule{
			throttled("agents", LimitMatch{UserAgents: []string{"*"}}), deny("late", LimitMatch{UserAgents: []string{"x"}})}},
		"not shadowed by a narrower one": {rules: []LimitRule{
			deny("narrow", LimitMatch{Users: []string{"a"}}), deny("wide", LimitMatch{Users: []string{"?"}})}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for i := range tc.rules {
				tc.rules[i].SetDefaults()
			}
			errs := validateLimitRules(tc.rules, field.NewPath("limits"))
			var got []string
			for _, e := range errs {
				got = append(got, e.Field)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatalf("violations (-want +got):\n%s%v", diff, errs)
			}
			if len(errs) > 0 && !strings.Contains(errs[0].Error(), tc.wantText) {
				t.Errorf("message %q lacks %q", errs[0], tc.wantText)
			}
		})
	}
}

func TestThrottleDefaults(t *testing.T) {
	r := LimitRule{Throttle: &Throttle{RequestsPerSecond: one(2.5), BytesPerSecond: quantity("1Mi")}}
	r.SetDefaults()
	r.SetDefaults()
	if *r.Throttle.Burst != 3 || r.Throttle.BurstBytes.String() != "1Mi" || r.Throttle.Per != PerUser {
		t.Errorf("defaults are burst %d, burstBytes %s, per %s", *r.Throttle.Burst, r.Throttle.BurstBytes, r.Throttle.Per)
	}
	slow := LimitRule{Throttle: &Throttle{RequestsPerSecond: one(0.1)}}
	if slow.SetDefaults(); *slow.Throttle.Burst != 1 {
		t.Errorf("burst of a slow rule is %d, want 1: with 0 it would never admit", *slow.Throttle.Burst)
	}
}

func TestValidateEmergencyRule(t *testing.T) {
	good := func(change func(*EmergencyRule)) EmergencyRule {
		r := EmergencyRule{Action: EmergencyBlock, Match: LimitMatch{Users: []string{"x"}}, Reason: "INC-1", Duration: metav1.Duration{Duration: time.Minute}}
		change(&r)
		return r
	}
	tests := map[string]struct {
		rule EmergencyRule
		want string // the field
	}{
		"good":                 {good(func(*EmergencyRule) {}), ""},
		"unknown action":       {good(func(r *EmergencyRule) { r.Action = "Panic" }), "action"},
		"no reason":            {good(func(r *EmergencyRule) { r.Reason = " " }), "reason"},
		"reason of two lines":  {good(func(r *EmergencyRule) { r.Reason = "a\nb" }), "reason"},
		"no end":               {good(func(r *EmergencyRule) { r.Duration.Duration = 0 }), "duration"},
		"a week":               {good(func(r *EmergencyRule) { r.Duration.Duration = 168 * time.Hour }), "duration"},
		"matches nothing":      {good(func(r *EmergencyRule) { r.Match = LimitMatch{} }), "match"},
		"blocks everyone":      {good(func(r *EmergencyRule) { r.Match = LimitMatch{Users: []string{"*"}} }), "match"},
		"blocks all sources":   {good(func(r *EmergencyRule) { r.Match = LimitMatch{SourceCIDRs: []string{"0.0.0.0/0"}} }), "match"},
		"blocks authenticated": {good(func(r *EmergencyRule) { r.Match = LimitMatch{Groups: []string{"system:authenticated"}} }), "match"},
		"blocks all LISTs":     {good(func(r *EmergencyRule) { r.Match = LimitMatch{Users: []string{"*"}, Verbs: []string{"list"}} }), ""},
		"blocks the lane":      {good(func(r *EmergencyRule) { r.Match.Lanes = []LaneName{LaneBreakGlass} }), "match.lanes"},
		"block with bounds":    {good(func(r *EmergencyRule) { r.Throttle = &Throttle{Concurrency: one(1)} }), "throttle"},
		"throttle without":     {good(func(r *EmergencyRule) { r.Action = EmergencyThrottle }), "throttle"},
		"throttle":             {good(func(r *EmergencyRule) { r.Action, r.Throttle = EmergencyThrottle, &Throttle{Concurrency: one(1)} }), ""},
		"lockdown of all":      {good(func(r *EmergencyRule) { r.Action, r.Match = EmergencyLockdown, LimitMatch{} }), "exceptUsers"},
		"lockdown but for me": {good(func(r *EmergencyRule) {
			r.Action, r.Match, r.ExceptUsers = EmergencyLockdown, LimitMatch{}, []string{"me"}
		}), ""},
		"lockdown but for all": {good(func(r *EmergencyRule) {
			r.Action, r.Match, r.ExceptUsers = EmergencyLockdown, LimitMatch{}, []string{"*"}
		}), "exceptUsers[0]"},
		"lockdown of some":     {good(func(r *EmergencyRule) { r.Action, r.ExceptUsers = EmergencyLockdown, []string{"me"} }), "match"},
		"exception of a block": {good(func(r *EmergencyRule) { r.ExceptUsers = []string{"me"} }), "exceptUsers"},
		"passthrough":          {good(func(r *EmergencyRule) { r.Action, r.Match = EmergencyPassthrough, LimitMatch{} }), ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.rule.SetDefaults()
			errs := tc.rule.Validate()
			got := ""
			if len(errs) > 0 {
				got = errs[0].Field
			}
			if got != tc.want || len(errs) > 1 {
				t.Errorf("violations %v, want one of %q", errs, tc.want)
			}
		})
	}
}

func TestGlobRelations(t *testing.T) {
	tests := map[string]struct {
		a, b             string
		overlap, aCovers bool
	}{
		"equal":            {"abc", "abc", true, true},
		"different":        {"abc", "abd", false, false},
		"star covers":      {"a*", "abc", true, true},
		"star covers star": {"a*", "ab*c", true, true},
		"not the other":    {"ab*", "a*", true, false},
		"crossing":         {"a*", "*b", true, false},
		"question":         {"a?", "ab", true, true},
		"question, star":   {"a?", "a*", true, false},
		"star, question":   {"*", "?", true, true},
		"length":           {"??", "?", false, false},
		"middle":           {"*x*", "axb", true, true},
		"disjoint stars":   {"a*b", "a*c", false, false},
		"empty":            {"*", "", true, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := globsOverlap(tc.a, tc.b); got != tc.overlap || got != globsOverlap(tc.b, tc.a) {
				t.Errorf("globsOverlap(%q, %q) = %t, want %t both ways", tc.a, tc.b, got, tc.overlap)
			}
			if got := globCovers(tc.a, tc.b); got != tc.aCovers {
				t.Errorf("globCovers(%q, %q) = %t, want %t", tc.a, tc.b, got, tc.aCovers)
			}
		})
	}
}

// A rule that is wrongly called unreachable is refused for nothing, so the relations must agree with each other.
func FuzzGlobRelations(f *testing.F) {
	f.Add("a*b?", "*b", "axbc")
	f.Fuzz(func(t *testing.T, a, b, literal string) {
		if len(a)+len(b)+len(literal) > 200 || strings.ContainsAny(literal, "*?") {
			return
		}
		if globCovers(a, b) && globCovers(b, literal) && !globCovers(a, literal) {
			t.Errorf("%q covers %q, which matches %q, which the first does not match", a, b, literal)
		}
		if globCovers(a, literal) && globCovers(b, literal) && !globsOverlap(a, b) {
			t.Errorf("%q and %q both match %q and do not overlap", a, b, literal)
		}
		if overlap := globsOverlap(a, b); overlap != globsOverlap(b, a) {
			t.Errorf("globsOverlap(%q, %q) depends on the order", a, b)
		}
	})
}
