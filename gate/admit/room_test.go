package admit

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/gate/flow"
)

// configuration is one with a limit that does not move, so that what is tested is who gets it.
func configuration(limit int) *v1alpha1.GateOverload {
	c := v1alpha1.NewGateOverload(v1alpha1.OverloadEnforce)
	c.Limit = v1alpha1.OverloadLimit{Min: limit, Max: limit, Initial: limit}
	return c
}

func open(t *testing.T, c *v1alpha1.GateOverload) *Room {
	t.Helper()
	return openWith(t, c, nil)
}

func openWith(t *testing.T, c *v1alpha1.GateOverload, readings func() []law.Server) *Room {
	t.Helper()
	r, err := New(Options{StateDir: t.TempDir(), Readings: readings})
	check(t, err)
	check(t, r.Configure(c))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return r
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// of is a request of a user's, known by a certificate; "unverified" is nobody in particular at an address of its own.
func of(user, verb, path string) (*flow.Request, *http.Request) {
	method := map[string]string{"get": http.MethodGet, "list": http.MethodGet, "watch": http.MethodGet, "create": http.MethodPost, "update": http.MethodPut, "patch": http.MethodPatch}[verb]
	target := "https://gate" + path
	if verb == "watch" {
		target += "?watch=true&resourceVersion=7"
	}
	r, err := http.NewRequest(method, target, nil)
	if err != nil {
		panic(err)
	}
	r.RemoteAddr = "10.1.2.3:4"
	caller := flow.Caller{User: user, Certainty: flow.CertificateVerified}
	if node := "system:node:"; len(user) > len(node) && user[:len(node)] == node {
		caller.Groups = []string{"system:nodes"}
	}
	if user == "" {
		caller = flow.Caller{User: "unverified:10.1.2.3"}
	}
	f, err := flow.Classify(r, caller, flow.Standard, time.Now())
	if err != nil {
		panic(err)
	}
	return f, r
}

func TestLevels(t *testing.T) {
	r := open(t, configuration(10))
	const agent, controller = "system:serviceaccount:telemetry:agent", "system:serviceaccount:kube-system:deployment-controller"
	for _, c := range []struct {
		user, verb, path string
		want             v1alpha1.LevelName
	}{
		{"system:node:n1", "update", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", v1alpha1.LevelSystem},
		{"system:node:n1", "patch", "/api/v1/nodes/n1/status", v1alpha1.LevelSystem},
		{"system:node:n1", "get", "/api/v1/namespaces/a/secrets/s", v1alpha1.LevelSystem},
		{"system:node:n1", "list", "/api/v1/nodes", v1alpha1.LevelWorkload},
		{"system:node:n1", "create", "/api/v1/namespaces/a/events", v1alpha1.LevelBackground},
		{"system:kube-scheduler", "list", "/api/v1/pods", v1alpha1.LevelSystem},
		{controller, "list", "/apis/apps/v1/deployments", v1alpha1.LevelSystem},
		{"system:serviceaccount:kube-system:csi", "update", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/csi", v1alpha1.LevelSystem},
		{"system:serviceaccount:kube-system:csi", "list", "/api/v1/pods", v1alpha1.LevelWorkload},
		{agent, "list", "/api/v1/pods", v1alpha1.LevelWorkload},
		{agent, "update", "/apis/coordination.k8s.io/v1/namespaces/telemetry/leases/agent", v1alpha1.LevelWorkload},
		{agent, "create", "/apis/authorization.k8s.io/v1/subjectaccessreviews", v1alpha1.LevelCallbacks},
		{"system:kube-aggregator", "get", "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", v1alpha1.LevelCallbacks},
		{"seakeep:gate-endpoints", "update", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/gate-a", v1alpha1.LevelSystem},
		{"seakeep:gate-endpoints", "update", "/api/v1/namespaces/default/endpoints/kubernetes", v1alpha1.LevelSystem},
		{"seakeep:policy", "list", "/api/v1/serviceaccounts", v1alpha1.LevelWorkload},
		{"alice", "get", "/api/v1/namespaces/a/pods/p", v1alpha1.LevelInteractive},
		{"alice", "list", "/api/v1/pods", v1alpha1.LevelInteractive},
		{"", "list", "/api/v1/pods", v1alpha1.LevelWorkload},
		{"alice", "create", "/api/v1/namespaces/a/events", v1alpha1.LevelBackground},
	} {
		f, _ := of(c.user, c.verb, c.path)
		if got := v1alpha1.LevelNames[r.Rank(f)]; got != c.want {
			t.Errorf("%s %s %s: level %s, want %s", c.user, c.verb, c.path, got, c.want)
		}
	}
}

// What a webhook asks while it is asked does not wait behind those who wait for it; its reads of whole kinds do.
func TestCallees(t *testing.T) {
	c := configuration(10)
	c.Rules = []v1alpha1.OverloadRule{{Name: "batch", Match: v1alpha1.LimitMatch{Users: []string{"system:serviceaccount:hooks:slow"}}, Level: v1alpha1.LevelBackground}}
	r := open(t, c)
	const hook = "system:serviceaccount:hooks:policy"
	level := func(user, verb, path string) v1alpha1.LevelName {
		f, _ := of(user, verb, path)
		return v1alpha1.LevelNames[r.Rank(f)]
	}
	if got := level(hook, "get", "/api/v1/namespaces/a/pods/p"); got != v1alpha1.LevelWorkload {
		t.Errorf("before it is known: %s", got)
	}
	r.SetCallees([]string{hook, "system:serviceaccount:hooks:slow", "unverified:10.1.2.3"})
	for _, c := range []struct {
		user, verb, path string
		want             v1alpha1.LevelName
	}{
		{hook, "get", "/api/v1/namespaces/a/pods/p", v1alpha1.LevelCallbacks},
		{hook, "list", "/api/v1/namespaces/a/configmaps", v1alpha1.LevelCallbacks},
		{hook, "create", "/api/v1/namespaces/a/events", v1alpha1.LevelCallbacks},
		{hook, "list", "/api/v1/pods", v1alpha1.LevelWorkload},
		{hook, "watch", "/api/v1/namespaces/a/pods", v1alpha1.LevelWorkload},
		{"system:serviceaccount:hooks:slow", "get", "/api/v1/namespaces/a/pods/p", v1alpha1.LevelBackground},
		{"", "get", "/api/v1/namespaces/a/pods/p", v1alpha1.LevelWorkload},
	} {
		if got := level(c.user, c.verb, c.path); got != c.want {
			t.Errorf("%s %s %s: level %s, want %s", c.user, c.verb, c.path, got, c.want)
		}
	}
	if got := r.Status().Callees; len(got) != 3 {
		t.Errorf("%v", got)
	}
}

// An operator's rule comes first.
func TestRulesComeFirst(t *testing.T) {
	c := configuration(10)
	c.Rules = []v1alpha1.OverloadRule{{Name: "batch", Match: v1alpha1.LimitMatch{UserAgents: []string{"crawler/*"}}, Level: v1alpha1.LevelBackground}}
	r := open(t, c)
	f, _ := of("alice", "list", "/api/v1/pods")
	f.UserAgent = "crawler/1"
	if got := v1alpha1.LevelNames[r.Rank(f)]; got != v1alpha1.LevelBackground {
		t.Errorf("level %s", got)
	}
}

// storm is many requests of one user, each of which takes a time.
type storm struct {
	room            *Room
	done            sync.WaitGroup
	served, refused atomic.Int64
	most, now       atomic.Int64
}

func (s *storm) send(user string, n int, takes time.Duration) {
	f, request := of(user, "get", "/api/v1/namespaces/a/pods/p")
	for range n {
		s.done.Go(func() {
			seats, rejection := s.room.Enter(context.Background(), f, request)
			if rejection != nil {
				s.refused.Add(1)
				return
			}
			for n := s.now.Add(1); ; {
				if most := s.most.Load(); n <= most || s.most.CompareAndSwap(most, n) {
					break
				}
			}
			<-time.After(takes)
			s.now.Add(-1)
			s.served.Add(1)
			seats.Done(Outcome{Code: http.StatusOK, Upstream: takes})
		})
	}
}

// A storm gets what others do not want, and no more; whoever is of a higher level finds a seat at once, and a small client of the
// same level is not behind the large one.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, configuration(30))
		s := &storm{room: r}
		s.send("system:serviceaccount:a:storm", 45, time.Second)
		<-time.After(50 * time.Millisecond)
		wait := func(user, verb, path string) time.Duration {
			f, request := of(user, verb, path)
			since := time.Now()
			seats, rejection := r.Enter(t.Context(), f, request)
			if rejection != nil {
				t.Fatalf("%s was turned away: %+v", user, rejection)
			}
			defer seats.Done(Outcome{Code: http.StatusOK})
			return time.Since(since)
		}
		if waited := wait("system:node:n1", "update", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"); waited != 0 {
			t.Errorf("a node's lease waited %s", waited)
		}
		if waited := wait("alice", "get", "/api/v1/namespaces/a/pods/p"); waited > 20*time.Millisecond {
			t.Errorf("a person waited %s", waited)
		}
		if waited := wait("system:serviceaccount:b:small", "get", "/api/v1/namespaces/b/pods/p"); waited > 1100*time.Millisecond {
			t.Errorf("a small client waited %s, more than one round", waited)
		}
		s.done.Wait()
		if s.served.Load() != 45 || s.most.Load() > 30 || s.most.Load() < 10 {
			t.Errorf("%d of 45 were served, %d turned away, at most %d at once of a limit of 30", s.served.Load(), s.refused.Load(), s.most.Load())
		}
		verifyEmpty(t, r)
	})
}

// verifyEmpty holds that nothing is held and nobody waits.
func verifyEmpty(t *testing.T, r *Room) {
	t.Helper()
	synctest.Wait()
	for _, l := range r.levels {
		if l.inUse.Load() != 0 || l.waiting.Load() != 0 || !l.queues.IsIdle() {
			t.Errorf("level %s: %d seats in use, %d waited for", l.name, l.inUse.Load(), l.waiting.Load())
		}
	}
}

// Queues are bounded in length and in time, and each end has its reason.
func TestTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configuration(5)
		for i := range c.Levels {
			c.Levels[i].Queues, c.Levels[i].QueueLength = 1, 10
		}
		r := open(t, c)
		s := &storm{room: r}
		s.send("system:serviceaccount:a:storm", 50, time.Minute)
		<-time.After(100 * time.Millisecond) // the level has its seats by then, and who waited goes on
		s.send("system:serviceaccount:a:storm", 50, time.Minute)
		<-time.After(time.Second)
		full := s.refused.Load()
		if full < 85 || full > 89 {
			t.Errorf("%d were turned away at once; 10 may wait and 1–5 are served", full)
		}
		f, request := of("system:serviceaccount:a:storm", "watch", "/api/v1/pods")
		_, rejection := r.Enter(t.Context(), f, request)
		status := rejection.Status()
		if rejection.Reason != ReasonQueueFull || status.Code != http.StatusTooManyRequests || status.Details.RetryAfterSeconds < 1 || status.Details.RetryAfterSeconds > 30 {
			t.Errorf("a watch on a full queue got %+v", status)
		}
		<-time.After(10 * time.Second)
		if late := s.refused.Load() - full; late != 10 {
			t.Errorf("%d of 10 that waited too long were turned away", late)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if seats, rejection := r.Enter(ctx, f, request); seats != nil || rejection != nil {
			t.Errorf("whoever left got %v, %v", seats, rejection)
		}
		s.done.Wait()
		verifyEmpty(t, r)
	})
}

// In shadow nobody waits, and what would have become of them is counted.
func TestShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configuration(5)
		c.Mode = v1alpha1.OverloadShadow
		r := open(t, c)
		s := &storm{room: r}
		since := time.Now()
		s.send("system:serviceaccount:a:storm", 100, time.Second)
		s.done.Wait()
		if took := time.Since(since); took != time.Second || s.served.Load() != 100 {
			t.Errorf("%d of 100 were served after %s", s.served.Load(), took)
		}
		<-time.After(time.Minute)
		counted := gathered(t, r.levels[2*levelIndex(v1alpha1.LevelWorkload)])
		if counted < 60 || counted > 99 {
			t.Errorf("%v of 100 would have been turned away", counted)
		}
		verifyEmpty(t, r)
	})
}

// A LIST that takes all seats of its level keeps nobody's small request waiting, and while a control plane comes back LISTs wait
// and are not turned away.
func TestBesideLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		r, err := New(Options{Readings: func() []law.Server {
			return []law.Server{{Name: "a", Serving: true, Reading: &law.Reading{At: time.Now(), Over: time.Second, Started: started, CPU: 0.1, CPUBound: 1}}}
		}})
		check(t, err)
		check(t, r.Configure(configuration(20)))
		ctx, cancel := context.WithCancel(t.Context())
		var running, listing sync.WaitGroup
		running.Go(func() { r.Run(ctx) })
		<-time.After(time.Second)
		if !r.Status().Ramping {
			t.Fatal("an API server of one second is not taken for one that comes back")
		}
		list, listRequest := of("alice", "list", "/api/v1/pods")
		for range 10 {
			listing.Go(func() {
				r.bytes.Store(1) // so that each takes all there is
				seats, rejection := r.Enter(ctx, list, listRequest)
				if rejection != nil {
					t.Errorf("a LIST was turned away: %v", rejection.Reason)
					return
				}
				<-time.After(300 * time.Millisecond)
				seats.Done(Outcome{Code: http.StatusOK, Upstream: 300 * time.Millisecond})
			})
		}
		<-time.After(100 * time.Millisecond)
		get, getRequest := of("bob", "get", "/api/v1/namespaces/a/pods/p")
		since := time.Now()
		seats, rejection := r.Enter(ctx, get, getRequest)
		if rejection != nil || time.Since(since) > 20*time.Millisecond {
			t.Errorf("a GET beside LISTs: %v after %s", rejection, time.Since(since))
		}
		seats.Done(Outcome{Code: http.StatusOK})
		listing.Wait()
		verifyEmpty(t, r)
		cancel()
		running.Wait()
	})
}

// A stream gives its seat back while it goes on, and giving back twice is nothing.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, configuration(5))
		f, request := of("system:serviceaccount:a:w", "watch", "/api/v1/pods")
		var open []*Seats
		for range 500 {
			seats, rejection := r.Enter(t.Context(), f, request)
			if rejection != nil {
				t.Fatal(rejection)
			}
			seats.Release()
			open = append(open, seats)
		}
		verifyEmpty(t, r)
		for _, seats := range open {
			seats.Done(Outcome{Code: http.StatusOK})
			seats.Done(Outcome{})
		}
		verifyEmpty(t, r)
	})
}

// What waits goes on waiting over a reload, and the new limits hold.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, configuration(5))
		s := &storm{room: r}
		s.send("system:serviceaccount:a:storm", 40, 500*time.Millisecond)
		<-time.After(100 * time.Millisecond)
		check(t, r.Configure(configuration(100)))
		s.done.Wait()
		if s.served.Load() != 40 || s.most.Load() < 20 {
			t.Errorf("%d of 40 were served, at most %d at once", s.served.Load(), s.most.Load())
		}
		check(t, r.Configure(nil))
		f, request := of("alice", "get", "/api/v1/namespaces/a/pods/p")
		if seats, rejection := r.Enter(t.Context(), f, request); rejection != nil || seats.Held() != 1 {
			t.Error("switched off, it lets not everyone in")
		}
		verifyEmpty(t, r)
	})
}

// A rotating name of an unverified caller's gains nothing: the queue is its address's.
func TestFlowOfTheUnverified(t *testing.T) {
	f := &flow.Request{Caller: flow.Caller{User: "anything"}, Source: netip.MustParseAddr("2001:db8::1")}
	g := &flow.Request{Caller: flow.Caller{User: "else"}, Source: netip.MustParseAddr("2001:db8::2"), UserAgent: "x"}
	if flowOf(f) != flowOf(g) {
		t.Errorf("%q and %q", flowOf(f), flowOf(g))
	}
}

func BenchmarkEnter(b *testing.B) {
	r, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.Configure(configuration(1000)); err != nil {
		b.Fatal(err)
	}
	f, request := of("alice", "get", "/api/v1/namespaces/a/pods/p")
	b.ReportAllocs()
	for b.Loop() {
		seats, rejection := r.Enter(context.Background(), f, request)
		if rejection != nil {
			b.Fatal(fmt.Sprint(rejection.Reason))
		}
		seats.Done(Outcome{Code: http.StatusOK, Upstream: time.Millisecond})
	}
}

// gathered is how many requests of a level were turned away, or would have been.
func gathered(t *testing.T, l *level) float64 {
	t.Helper()
	total := 0.0
	for _, counter := range l.metrics.rejected {
		var m dto.Metric
		check(t, counter.Write(&m))
		total += m.GetCounter().GetValue()
	}
	return total
}
