package survive

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

var noon = time.Date(2024, 12, 11, 12, 0, 0, 0, time.UTC)

func TestGrants(t *testing.T) {
	g := newGrants(time.Hour, false)
	proxy := g.subject("proxy", "1", []string{"b", "a"}, map[string][]string{user.CredentialIDKey: {"one"}, "team": {"x"}})
	everywhere := right{Verb: "list", Version: "v1", Resource: "services"}
	g.granted(proxy, everywhere, noon)
	own := right{Verb: "get", Version: "v1", Resource: "nodes", Name: "own"}
	g.granted(proxy, own, noon)
	selected := right{Verb: "list", Version: "v1", Resource: "pods", Fields: "spec.nodeName=own"}
	g.granted(proxy, selected, noon)
	with := func(r right, change func(*right)) right {
		change(&r)
		return r
	}
	for name, tc := range map[string]struct {
		who   subject
		right right
		at    time.Time
		want  bool
	}{
		"as granted":                {proxy, everywhere, noon, true},
		"with another token":        {g.subject("proxy", "1", []string{"a", "b", "system:authenticated"}, map[string][]string{user.CredentialIDKey: {"two"}, "team": {"x"}}), everywhere, noon, true},
		"as another user":           {g.subject("other", "1", []string{"a", "b"}, map[string][]string{"team": {"x"}}), everywhere, noon, false},
		"made again under the name": {g.subject("proxy", "2", []string{"a", "b"}, map[string][]string{"team": {"x"}}), everywhere, noon, false},
		"in other groups":           {g.subject("proxy", "1", []string{"a"}, map[string][]string{"team": {"x"}}), everywhere, noon, false},
		"with another extra":        {g.subject("proxy", "1", []string{"a", "b"}, map[string][]string{"team": {"y"}}), everywhere, noon, false},
		"in one namespace":          {proxy, with(everywhere, func(r *right) { r.Namespace = "a" }), noon, true},
		"selected":                  {proxy, with(everywhere, func(r *right) { r.Labels = "x=y" }), noon, true},
		"one by its name":           {proxy, with(everywhere, func(r *right) { r.Namespace, r.Name, r.Fields = "a", "x", "metadata.name=x" }), noon, true},
		"another verb":              {proxy, with(everywhere, func(r *right) { r.Verb = "watch" }), noon, false},
		"one object of a list":      {proxy, with(everywhere, func(r *right) { r.Verb, r.Namespace, r.Name = "get", "a", "x" }), noon, false},
		"another resource":          {proxy, with(everywhere, func(r *right) { r.Resource = "nodes" }), noon, false},
		"another group":             {proxy, with(everywhere, func(r *right) { r.Group = "x" }), noon, false},
		"its own node":              {proxy, own, noon, true},
		"another's node":            {proxy, with(own, func(r *right) { r.Name = "other" }), noon, false},
		"all nodes":                 {proxy, with(own, func(r *right) { r.Name = "" }), noon, false},
		"pods of its node":          {proxy, selected, noon, true},
		"of its node, in one place": {proxy, with(selected, func(r *right) { r.Namespace = "a" }), noon, true},
		"all pods":                  {proxy, with(selected, func(r *right) { r.Fields = "" }), noon, false},
		"pods of another node":      {proxy, with(selected, func(r *right) { r.Fields = "spec.nodeName=other" }), noon, false},
		"in time":                   {proxy, everywhere, noon.Add(time.Hour), true},
		"too late":                  {proxy, everywhere, noon.Add(time.Hour + 1), false},
		"from a clock ahead":        {proxy, everywhere, noon.Add(-2 * time.Minute), false},
	} {
		if got := g.has(tc.who, tc.right, tc.at); got != tc.want {
			t.Errorf("%s: %t, want %t", name, got, tc.want)
		}
	}
	// A denial of a part takes the whole away.
	g.denied(proxy, with(everywhere, func(r *right) { r.Namespace, r.Labels = "a", "x=y" }))
	if g.has(proxy, everywhere, noon) || g.has(proxy, with(everywhere, func(r *right) { r.Namespace = "b" }), noon) {
		t.Error("what was denied in one namespace is granted in all")
	}
	strict := newGrants(time.Hour, true)
	if fmt.Sprint(strict.subject("u", "", nil, map[string][]string{user.CredentialIDKey: {"one"}})) == fmt.Sprint(strict.subject("u", "", nil, map[string][]string{user.CredentialIDKey: {"two"}})) {
		t.Error("two tokens are one subject where an authorizer reads what stands in a token")
	}
}

func TestGrantsAreBounded(t *testing.T) {
	g := newGrants(time.Hour, false)
	for i := range mostGrants + 1000 {
		g.granted(subject{User: fmt.Sprint(i)}, right{Verb: "list", Version: "v1", Resource: "services"}, noon.Add(time.Duration(i)*time.Millisecond))
	}
	if n := g.count(); n > mostGrants {
		t.Errorf("%d grants, want ≤ %d", n, mostGrants)
	}
	if !g.has(subject{User: fmt.Sprint(mostGrants + 999)}, right{Verb: "list", Version: "v1", Resource: "services"}, noon.Add(time.Minute)) {
		t.Error("the newest is not there")
	}
}

// A grant whose holder is still seen is asked for again in time; one that nobody uses goes.
func TestGrantsOfTheLivingAreRenewed(t *testing.T) {
	g := newGrants(time.Hour, false)
	r := right{Verb: "list", Version: "v1", Resource: "services"}
	living, gone := subject{User: "living"}, subject{User: "gone"}
	g.granted(living, r, noon)
	g.granted(gone, r, noon)
	if due := g.aging(10, noon.Add(10*time.Minute)); len(due) != 0 {
		t.Errorf("after 10 min: %v", due)
	}
	if due := g.aging(10, noon.Add(20*time.Minute)); len(due) != 2 {
		t.Errorf("after 20 min: %v, want both", due)
	}
	g.seen(living, with(r, "watch"), noon.Add(30*time.Minute)) // it watches what it listed
	g.renewed(living, r, noon.Add(40*time.Minute))
	g.renewed(gone, r, noon.Add(40*time.Minute))
	due := g.aging(10, noon.Add(75*time.Minute))
	if len(due) != 1 || due[0].User != "living" {
		t.Errorf("after 75 min: %v, want the one that is seen", due)
	}
	g.aging(10, noon.Add(3*time.Hour))
	if g.count() != 0 {
		t.Errorf("%d grants after 3 h", g.count())
	}
	if missing := g.siblings(living, r, noon); len(missing) != 1 || missing[0].Verb != "watch" {
		t.Errorf("who lists also needs %v", missing)
	}
	if missing := g.siblings(living, with(r, "get"), noon); missing != nil {
		t.Errorf("who gets also needs %v", missing)
	}
}

func with(r right, verb string) right {
	r.Verb = verb
	return r
}
