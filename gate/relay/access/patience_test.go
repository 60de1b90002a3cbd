package access

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/gate/flow"
)

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(2)
		enter := func() func(outcome) {
			t.Helper()
			leave, err := p.enter(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		turnedAway := func() {
			t.Helper()
			if _, err := p.enter(t.Context()); !errors.Is(err, ErrSpared) {
				t.Fatalf("entering: %v, want ErrSpared", err)
			}
		}
		first, second := enter(), enter()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := p.enter(ctx); !errors.Is(err, ErrSpared) || time.Since(began) != time.Second {
			t.Errorf("with no slot free: %v after %s", err, time.Since(began))
		}
		first(failed)
		turnedAway()
		second(failed)
		turnedAway()
		<-time.After(spareFor + 1)
		try := enter()
		turnedAway() // one finds out for all
		try(failed)
		turnedAway()
		<-time.After(spareFor + 1)
		enter()(abandoned) // says nothing: the next may try
		enter()(answered)
		enter()(answered)
		enter()(abandoned)
		enter()(answered)
	})
}

func TestOutcomes(t *testing.T) {
	for code, want := range map[int]outcome{
		0: failed, 201: answered, 200: answered, 400: answered, 413: answered, 422: answered,
		http.StatusUnauthorized: failed, http.StatusForbidden: failed, http.StatusNotFound: failed, 429: failed, 500: failed, 503: failed, 504: failed,
	} {
		if got := (&answer{code: code}).outcome(); got != want {
			t.Errorf("%d is %v, want %v", code, got, want)
		}
	}
}

// Two questions that the authorizer could answer differently must not share a verdict.
func TestVerdictKeys(t *testing.T) {
	base := func() (*user.DefaultInfo, *flow.Request) {
		return &user.DefaultInfo{Name: "a", UID: "b", Groups: []string{"c", "d"}, Extra: map[string][]string{"e": {"f", "g"}}},
			&flow.Request{Verb: "list", APIGroup: "h", APIVersion: "i", Resource: "j", Namespace: "k", Name: "l", FieldSelector: "m", LabelSelector: "n"}
	}
	seen := map[verdict]string{}
	for what, change := range map[string]func(*user.DefaultInfo, *flow.Request){
		"nothing":                func(*user.DefaultInfo, *flow.Request) {},
		"name":                   func(u *user.DefaultInfo, _ *flow.Request) { u.Name = "x" },
		"uid":                    func(u *user.DefaultInfo, _ *flow.Request) { u.UID = "" },
		"a name that runs on":    func(u *user.DefaultInfo, _ *flow.Request) { u.Name, u.UID = "a1:b", "" },
		"one group":              func(u *user.DefaultInfo, _ *flow.Request) { u.Groups = []string{"cd"} },
		"a group is an extra":    func(u *user.DefaultInfo, _ *flow.Request) { u.Groups, u.Extra = []string{"c", "d", "e"}, nil },
		"no extra":               func(u *user.DefaultInfo, _ *flow.Request) { u.Extra = nil },
		"extra without a value":  func(u *user.DefaultInfo, _ *flow.Request) { u.Extra = map[string][]string{"e": nil} },
		"extra's values are two": func(u *user.DefaultInfo, _ *flow.Request) { u.Extra = map[string][]string{"e": nil, "f": {"g"}} },
		"verb":                   func(_ *user.DefaultInfo, f *flow.Request) { f.Verb = "watch" },
		"group":                  func(_ *user.DefaultInfo, f *flow.Request) { f.APIGroup = "" },
		"version":                func(_ *user.DefaultInfo, f *flow.Request) { f.APIVersion = "v2" },
		"resource":               func(_ *user.DefaultInfo, f *flow.Request) { f.Resource = "x" },
		"subresource":            func(_ *user.DefaultInfo, f *flow.Request) { f.Subresource = "status" },
		"namespace":              func(_ *user.DefaultInfo, f *flow.Request) { f.Namespace = "" },
		"object":                 func(_ *user.DefaultInfo, f *flow.Request) { f.Name = "" },
		"namespace for object":   func(_ *user.DefaultInfo, f *flow.Request) { f.Namespace, f.Name = "", "k" },
		"field selector":         func(_ *user.DefaultInfo, f *flow.Request) { f.FieldSelector = "" },
		"label selector":         func(_ *user.DefaultInfo, f *flow.Request) { f.LabelSelector = "" },
		"selectors swapped":      func(_ *user.DefaultInfo, f *flow.Request) { f.FieldSelector, f.LabelSelector = "n", "m" },
	} {
		u, f := base()
		change(u, f)
		key := verdictKey(u, f)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have one key", what, other)
		}
		seen[key] = what
	}
}
