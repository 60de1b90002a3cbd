package limit

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func emergencyOf(action v1alpha1.EmergencyAction, expires time.Time) v1alpha1.EmergencyRule {
	return v1alpha1.EmergencyRule{ID: "e-" + string(action), Action: action, Reason: "INC-1", Expires: metav1.NewTime(expires)}
}

func setEmergency(t *testing.T, e *Engine, rules ...v1alpha1.EmergencyRule) int {
	t.Helper()
	for i := range rules {
		rules[i].SetDefaults()
	}
	n, err := e.SetEmergency(rules)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// opened is an admitted request with its context.
func opened(t *testing.T, e *Engine, f *flow.Request) (context.Context, *Pass) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	p, r := e.Admit(f, cancel)
	if r != nil {
		t.Fatalf("rejected by %s for %s", r.Rule, r.Reason)
	}
	t.Cleanup(p.Done)
	return ctx, p
}

func watch(f *flow.Request) { f.Verb, f.LongRunning = "watch", true }

func ownLease(f *flow.Request) {
	f.Caller.User, f.Verb, f.APIGroup, f.Resource = "system:node:n1", "update", "coordination.k8s.io", "leases"
	f.Scope, f.Namespace, f.Name = v1alpha1.ScopeObject, "kube-node-lease", "n1"
}

func TestBlock(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	bad, _ := opened(t, e, request("bad", watch))
	good, _ := opened(t, e, request("good", watch))
	lane, _ := opened(t, e, request("bad", watch, func(f *flow.Request) { f.Lane = flow.BreakGlass }))

	block := emergencyOf(v1alpha1.EmergencyBlock, c.Now().Add(time.Minute))
	block.Match.Users = []string{"bad"}
	if n := setEmergency(t, e, block); n != 1 {
		t.Errorf("%d requests ended, want 1", n)
	}
	var ended *EndedError
	if !errors.As(context.Cause(bad), &ended) || ended.Why != "INC-1" {
		t.Errorf("the open watch ended with %v, want the rule and its reason", context.Cause(bad))
	}
	if good.Err() != nil || lane.Err() != nil {
		t.Error("requests the rule does not select were ended")
	}
	r := reject(t, e, request("bad", get), ReasonBlocked)
	if !r.Emergency || r.Code != 403 || r.Rule != "e-Block" {
		t.Errorf("rejection %+v", r)
	}
	admit(t, e, request("bad", func(f *flow.Request) { f.Lane = flow.BreakGlass })).Done()
	admit(t, e, request("good", get)).Done()
	c.add(time.Minute)
	admit(t, e, request("bad", get)).Done() // expired, without anybody's help
}

func TestLockdown(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	lockdown := emergencyOf(v1alpha1.EmergencyLockdown, c.Now().Add(time.Minute))
	lockdown.ExceptUsers, lockdown.ExceptGroups = []string{"alice"}, []string{"sre"}
	setEmergency(t, e, lockdown)
	reject(t, e, request("bob", get), ReasonLockdown)
	admit(t, e, request("alice", get)).Done()
	admit(t, e, request("carol", get, func(f *flow.Request) { f.Caller.Groups = []string{"sre"} })).Done()
	admit(t, e, request("bob", get, func(f *flow.Request) { f.Lane = flow.BreakGlass })).Done()
	// A name that nobody verified is no exception.
	reject(t, e, request("alice", get, func(f *flow.Request) { f.Caller.Certainty = flow.Unverified }), ReasonLockdown)
	// Without leases all nodes would be NotReady as soon as a controller is let in.
	admit(t, e, request("", ownLease)).Done()
	reject(t, e, request("system:node:n1"), ReasonLockdown)
}

func TestEmergencyThrottleOnlyTightens(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("strict", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)}))
	wide := emergencyOf(v1alpha1.EmergencyThrottle, c.Now().Add(time.Minute))
	wide.Match.Users, wide.Throttle = []string{"*"}, &v1alpha1.Throttle{RequestsPerSecond: one(1000.0)}
	open, _ := opened(t, e, request("a", watch))
	write, _ := opened(t, e, request("b", get))
	if n := setEmergency(t, e, wide); n != 1 || !isEnded(context.Cause(open)) || write.Err() != nil {
		t.Errorf("%d requests ended, want the watch alone", n)
	}
	if r := reject(t, e, request("a"), ReasonRate); r.Rule != "strict" {
		t.Errorf("rejected by %s: an emergency throttle must not replace the configured rules", r.Rule)
	}
	// Set again, as a lift of another rule does: the same rule keeps its buckets and ends nothing.
	again, _ := opened(t, e, request("c", watch))
	if n := setEmergency(t, e, wide); n != 0 || again.Err() != nil {
		t.Errorf("a rule in force already ended %d requests", n)
	}
}

func TestThrottleOfEveryoneLeavesNodesTheirLeases(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	all := emergencyOf(v1alpha1.EmergencyThrottle, c.Now().Add(time.Minute))
	all.Match.Users, all.Throttle = []string{"*"}, &v1alpha1.Throttle{RequestsPerSecond: one(1.0), Per: v1alpha1.PerRule}
	setEmergency(t, e, all)
	admit(t, e, request("a")).Done()
	reject(t, e, request("a"), ReasonRate)
	for range 10 {
		admit(t, e, request("", ownLease)).Done()
	}
	named := all
	named.ID, named.Match = "e-2", v1alpha1.LimitMatch{Resources: []string{"leases"}}
	setEmergency(t, e, named)
	admit(t, e, request("", ownLease)).Done()
	reject(t, e, request("", ownLease), ReasonRate) // asked for by name
}

func TestPassthrough(t *testing.T) {
	c := newClock()
	e := engine(t, c, v1alpha1.LimitRule{Name: "no", Action: v1alpha1.LimitDeny})
	block := emergencyOf(v1alpha1.EmergencyBlock, c.Now().Add(time.Hour))
	block.Match.Users = []string{"a"}
	setEmergency(t, e, block, emergencyOf(v1alpha1.EmergencyPassthrough, c.Now().Add(time.Minute)))
	e.Squeeze(c.Now().Add(time.Hour))
	admit(t, e, request("a")).Done()
	c.add(time.Minute)
	reject(t, e, request("a", get), ReasonBlocked)
}

// What many get of one read is no load; without this a squeeze turned away the agents that the relay had made harmless.
func TestSqueezeLeavesSharedReadsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		shared := func(options ...func(*flow.Request)) (context.Context, *Pass) {
			ctx, cancel := context.WithCancelCause(t.Context())
			p, rejection := e.AdmitShared(request("a", options...), cancel)
			if rejection != nil {
				t.Fatalf("a shared request was turned away: %+v", rejection)
			}
			return ctx, p
		}
		list, first := shared()
		if n := e.Squeeze(time.Now().Add(5 * time.Second)); n != 0 || list.Err() != nil {
			t.Errorf("a squeeze ended %d shared requests", n)
		}
		passes := []*Pass{first}
		for range 50 {
			_, p := shared()
			_, q := shared(watch)
			passes = append(passes, p, q)
		}
		admit(t, e, request("a")).Done() // and its own place is still there
		for _, p := range passes {
			p.Done()
		}
		// Other rules hold.
		block := emergencyOf(v1alpha1.EmergencyBlock, time.Now().Add(time.Hour))
		block.Match.Users = []string{"a"}
		setEmergency(t, e, block)
		if _, rejection := e.AdmitShared(request("a"), func(error) {}); rejection == nil || rejection.Reason != string(ReasonBlocked) {
			t.Errorf("a blocked caller's shared request: %+v", rejection)
		}
	})
}

func TestSqueeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		list, _ := opened(t, e, request("a"))
		for range sparedEach {
			opened(t, e, request("a"))
		}
		engineer, his := opened(t, e, request("engineer"))
		watching, _ := opened(t, e, request("a", watch))
		starting, _ := opened(t, e, request("a", watch, func(f *flow.Request) { f.InitialEvents = true }))
		started, p := opened(t, e, request("a", watch, func(f *flow.Request) { f.InitialEvents = true }))
		p.InitialEventsDone()
		if n := e.Squeeze(time.Now().Add(5 * time.Second)); n != sparedEach+2 {
			t.Errorf("%d requests ended, want the LISTs of a and the watch that still sends initial events", n)
		}
		if engineer.Err() != nil {
			t.Error("the LIST of who has only one was ended")
		}
		his.Done()
		if !isEnded(context.Cause(list)) || !isEnded(context.Cause(starting)) || watching.Err() != nil || started.Err() != nil {
			t.Error("the wrong requests were ended")
		}
		// One LIST of each caller, and a few of all together.
		held := []*Pass{admit(t, e, request("a"))}
		r := reject(t, e, request("a"), ReasonSqueezed) // after waiting a second for the place
		if r.Code != 429 || r.RetryAfter < time.Second {
			t.Errorf("rejection %+v", r)
		}
		for _, user := range []string{"b", "c", "d"} {
			held = append(held, admit(t, e, request(user)))
		}
		reject(t, e, request("e"), ReasonSqueezed)
		reject(t, e, request("a", watch), ReasonSqueezed)
		if n := e.Squeeze(time.Now().Add(20 * time.Second)); n != 0 {
			t.Errorf("prolonging the squeeze ended %d requests", n)
		}
		for _, p := range held {
			p.Done()
		}
		// The same for short requests.
		var passes []*Pass
		for user := range squeezedShort.all.concurrency / squeezedShort.each.concurrency {
			for range squeezedShort.each.concurrency {
				passes = append(passes, admit(t, e, request(strings.Repeat("s", user+1), get)))
			}
		}
		reject(t, e, request("z", get), ReasonSqueezed)
		admit(t, e, request("", ownLease)).Done()
		for _, p := range passes {
			p.Done()
		}
		admit(t, e, request("b", get)).Done()
		if e.SqueezedUntil().IsZero() {
			t.Error("the status does not show the squeeze")
		}
		elapse(20 * time.Second)
		admit(t, e, request("a", watch)).Done()
		if !e.SqueezedUntil().IsZero() {
			t.Error("the squeeze does not end by itself")
		}
	})
}

// Those who read the least go on, as long as they are few together.
func TestSparedBySqueeze(t *testing.T) {
	for name, tc := range map[string]struct {
		reading map[key]int
		want    int
	}{
		"nobody":                   {nil, 0},
		"a storm and two":          {map[key]int{{name: "storm"}: 300, {name: "a"}: 1, {name: "b"}: 4}, 2},
		"who has too many":         {map[key]int{{name: "a"}: sparedEach + 1}, 0},
		"a thousand with one each": {callersWith(1000, 1), sparedAll},
		"few, each with most":      {callersWith(10, sparedEach), sparedAll / sparedEach},
	} {
		if got := sparedBySqueeze(tc.reading); len(got) != tc.want || got[key{name: "storm"}] {
			t.Errorf("%s: %d are spared, want %d: %v", name, len(got), tc.want, got)
		}
	}
}

func callersWith(n, each int) map[key]int {
	reading := map[key]int{}
	for i := range n {
		reading[key{name: strconv.Itoa(i)}] = each
	}
	return reading
}

func TestLocksOut(t *testing.T) {
	tests := map[string]struct {
		rule v1alpha1.EmergencyRule
		want bool
	}{
		"lockdown without me":     {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyLockdown, ExceptUsers: []string{"bob"}}, true},
		"lockdown with me":        {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyLockdown, ExceptUsers: []string{"al*"}}, false},
		"lockdown with my group":  {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyLockdown, ExceptGroups: []string{"sre"}}, false},
		"block of me":             {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"a*"}}}, true},
		"block of my group":       {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Groups: []string{"sre"}}}, true},
		"block of me, not my set": {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"a*"}, Groups: []string{"x"}}}, false},
		"block of an agent":       {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{UserAgents: []string{"*"}}}, false},
		"throttle of me":          {v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyThrottle, Match: v1alpha1.LimitMatch{Users: []string{"a*"}}}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := LocksOut(&tc.rule, "alice", []string{"sre"}); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
