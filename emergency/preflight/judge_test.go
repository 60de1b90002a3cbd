package preflight_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seakeep/seakeep/emergency/preflight"
	"github.com/seakeep/seakeep/signals"
)

var (
	today = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	later = today.AddDate(5, 0, 0)
)

// kubeadm is what a cluster of three control-plane nodes shows to its administrator, before anything was prepared.
func kubeadm() *preflight.Facts {
	ca := func(name string) preflight.Certificate { return preflight.Certificate{Subject: name, NotAfter: later} }
	f := &preflight.Facts{
		Server: "https://api.example.com:6443", Taken: today,
		Version:  preflight.Known("v1.36.3"),
		Provider: preflight.Known(preflight.Provider{Name: "self-managed", Evidence: "pods"}),
		Flags:    preflight.Known(preflight.Flags{APIServers: 3, Values: map[string][]string{"audit-log-path": {"/var/log/audit.log"}}}),
		Authentication: preflight.Known(preflight.Authentication{
			ClientCAs: []preflight.Certificate{ca("kubernetes")}, RequestHeaderCAs: []preflight.Certificate{ca("front-proxy-ca")},
			AllowedNames: []string{"front-proxy-client"}, UsernameHeaders: []string{"X-Remote-User"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
		}),
		Serving: preflight.Known(ca("kube-apiserver")),
		Issuer:  preflight.Known("https://kubernetes.default.svc"), Keys: preflight.Known(1),
		Anonymous:           preflight.Known(true),
		PriorityAndFairness: preflight.Known(preflight.PriorityAndFairness{On: true, Versions: []string{"v1"}}),
		About:               preflight.Known(signals.About{Version: "v1.36.3", Features: map[string]bool{"WatchList": true, "ConsistentListFromCache": true}}),
		Nodes:               preflight.Known(preflight.Nodes{Count: 103, ControlPlane: 3, Kubelets: []string{"v1.36.3"}}),
		APIServers:          preflight.Known([]string{"a", "b", "c"}), Endpoints: preflight.Known([]string{"10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"}), Balanced: preflight.Known(true),
		Clients: []preflight.ClientAddress{{Who: "kube-proxy", Server: preflight.Known("https://api.example.com:6443")}},
		Rights:  map[preflight.Right]preflight.Fact[bool]{}, MayGrantImpersonation: preflight.Known(true),
		Etcd: preflight.Known([]preflight.EtcdMember{}),
	}
	for _, url := range []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"} {
		members, _ := f.Etcd.Get()
		f.Etcd = preflight.Known(append(members, preflight.EtcdMember{Endpoint: url, Healthy: true, HasLeader: true, Version: "3.6.8", DBBytes: 1 << 30, QuotaBytes: 8 << 30, Members: 3}))
	}
	for _, r := range []preflight.Right{preflight.ReadMetrics, preflight.DelegateTokens, preflight.DelegateAccess, preflight.WatchSlices, preflight.WatchServices,
		preflight.PatchDaemonSets, preflight.DeletePods, preflight.CreateFlowSchemas, preflight.CreateLevels} {
		f.Rights[r] = preflight.Known(true)
	}
	return f
}

// eks is a managed control plane as its administrator sees it.
func eks() *preflight.Facts {
	f := kubeadm()
	f.Version = preflight.Known("v1.35.2-eks-1234567")
	f.Provider = preflight.Known(preflight.Provider{Name: "Amazon EKS", Managed: true, Evidence: "its version"})
	f.Flags, f.Clients, f.APIServers = preflight.Unknown[preflight.Flags]("no pod"), nil, preflight.Known([]string{"a", "b"})
	f.Etcd = preflight.Unknown[[]preflight.EtcdMember]("none was named")
	return f
}

func statuses(t *testing.T, f *preflight.Facts) map[preflight.Part]preflight.Result {
	t.Helper()
	results, err := preflight.Judge(f)
	if err != nil {
		t.Fatal(err)
	}
	byPart := map[preflight.Part]preflight.Result{}
	for _, r := range results {
		byPart[r.Part] = r
	}
	return byPart
}

func TestJudge(t *testing.T) {
	const works, limited, unknown, impossible = preflight.Works, preflight.Limited, preflight.Uncertain, preflight.Impossible
	authentication := func(change func(*preflight.Authentication)) func(*preflight.Facts) {
		return func(f *preflight.Facts) {
			a, _ := f.Authentication.Get()
			change(&a)
			f.Authentication = preflight.Known(a)
		}
	}
	etcd := func(change func([]preflight.EtcdMember) []preflight.EtcdMember) func(*preflight.Facts) {
		return func(f *preflight.Facts) {
			members, _ := f.Etcd.Get()
			f.Etcd = preflight.Known(change(members))
		}
	}
	type said struct {
		part   preflight.Part
		status preflight.Status
		words  string // in the reasons or the changes
	}
	for name, tc := range map[string]struct {
		from   func() *preflight.Facts
		change func(*preflight.Facts)
		want   []said
	}{
		"kubeadm, unprepared": {kubeadm, nil, []said{
			{preflight.Version, works, ""}, {preflight.GateProxy, limited, "--requestheader-allowed-names=front-proxy-client,seakeep-gate"},
			{preflight.GateActs, limited, "--as"}, {preflight.BreakGlass, limited, "append the break-glass CA"}, {preflight.TokenNames, works, ""},
			{preflight.LimitsActions, limited, "10.0.0.1:6443"}, {preflight.BypassCount, limited, "3 API servers"}, {preflight.LedgerCosts, works, "/var/log/audit.log"},
			{preflight.Certificates, works, ""}, {preflight.Relay, works, ""}, {preflight.EtcdCare, works, ""}, {preflight.Jail, works, ""}, {preflight.Rollout, works, ""},
		}},
		"EKS": {eks, nil, []said{
			{preflight.GateProxy, impossible, "Amazon EKS"}, {preflight.GateActs, limited, "tokens"}, {preflight.BreakGlass, impossible, "provider"},
			{preflight.TokenNames, limited, "IAM"}, {preflight.LimitsActions, limited, "--firewall cloud"}, {preflight.EtcdCare, impossible, "nobody"},
			{preflight.BypassCount, limited, "chance"}, {preflight.Jail, works, ""},
		}},
		"nothing is known": {func() *preflight.Facts { return &preflight.Facts{} }, nil, []said{
			{preflight.Version, unknown, ""}, {preflight.GateProxy, unknown, ""}, {preflight.GateActs, unknown, ""}, {preflight.BreakGlass, unknown, ""},
			{preflight.TokenNames, unknown, ""}, {preflight.LimitsActions, unknown, ""}, {preflight.BypassCount, unknown, ""}, {preflight.Certificates, unknown, ""},
			{preflight.Relay, unknown, ""}, {preflight.Overload, unknown, ""}, {preflight.DNS, unknown, ""}, {preflight.Rollout, unknown, ""}, {preflight.Jail, unknown, ""},
			{preflight.Monitor, unknown, ""}, {preflight.EtcdCare, unknown, ""},
		}},
		"the gate's name is allowed": {kubeadm, authentication(func(a *preflight.Authentication) { a.AllowedNames = append(a.AllowedNames, "seakeep-gate") }),
			[]said{{preflight.GateProxy, works, "UID"}}},
		"its name is allowed, and who runs it does not show": {kubeadm, func(f *preflight.Facts) {
			authentication(func(a *preflight.Authentication) { a.AllowedNames = append(a.AllowedNames, "seakeep-gate") })(f)
			f.Provider = preflight.Unknown[preflight.Provider]("")
		}, []said{{preflight.GateProxy, works, ""}, {preflight.BreakGlass, unknown, "--self-managed"}}},
		"any name is allowed": {kubeadm, authentication(func(a *preflight.Authentication) { a.AllowedNames = nil }),
			[]said{{preflight.GateProxy, limited, "anybody"}}},
		"no front proxy": {kubeadm, authentication(func(a *preflight.Authentication) { a.RequestHeaderCAs = nil }),
			[]said{{preflight.GateProxy, impossible, "--requestheader-username-headers=X-Remote-User"}, {preflight.BreakGlass, impossible, "front proxy"}}},
		"other headers": {kubeadm, authentication(func(a *preflight.Authentication) { a.UsernameHeaders = []string{"X-Remote-User", "X-Forwarded-User"} }),
			[]said{{preflight.GateProxy, limited, "identity.requestHeaders: {usernames: [X-Remote-User, X-Forwarded-User]}"}}},
		"no group header": {kubeadm, authentication(func(a *preflight.Authentication) { a.GroupHeaders = nil }), []said{{preflight.GateProxy, limited, "groups"}}},
		"GOAWAY": {kubeadm, func(f *preflight.Facts) {
			f.Flags = preflight.Known(preflight.Flags{Values: map[string][]string{"goaway-chance": {"0.001"}}})
		}, []said{{preflight.GateProxy, limited, "best 0"}}},
		"break-glass CA in":  {kubeadm, func(f *preflight.Facts) { f.BreakGlassTrusted = preflight.Known(true) }, []said{{preflight.BreakGlass, works, "without the lane"}}},
		"break-glass CA out": {kubeadm, func(f *preflight.Facts) { f.BreakGlassTrusted = preflight.Known(false) }, []said{{preflight.BreakGlass, limited, "do not trust"}}},
		"may not grant":      {kubeadm, func(f *preflight.Facts) { f.MayGrantImpersonation = preflight.Known(false) }, []said{{preflight.GateActs, impossible, "cluster admin"}}},
		"older":              {kubeadm, func(f *preflight.Facts) { f.Version = preflight.Known("v1.29.1") }, []said{{preflight.Version, limited, "older"}}},
		"newer":              {kubeadm, func(f *preflight.Facts) { f.Version = preflight.Known("v1.40.0-alpha.1") }, []said{{preflight.Version, limited, "newer"}}},
		"kubelets out of the policy": {kubeadm, func(f *preflight.Facts) { f.Nodes = preflight.Known(preflight.Nodes{Kubelets: []string{"v1.32.0"}}) },
			[]said{{preflight.Version, limited, "skew"}}},
		"a certificate ends": {kubeadm, func(f *preflight.Facts) {
			f.Serving = preflight.Known(preflight.Certificate{Subject: "x", NotAfter: today.AddDate(0, 0, 9)})
		}, []said{{preflight.Certificates, limited, "2026-01-11"}}},
		"a certificate ended": {kubeadm, func(f *preflight.Facts) {
			f.Client = preflight.Known(preflight.Certificate{Subject: "x", NotAfter: today.AddDate(0, 0, -1)})
		}, []said{{preflight.Certificates, limited, "expired"}}},
		"one API server asked of one": {kubeadm, func(f *preflight.Facts) { f.APIServers = preflight.Known([]string{"a"}) }, []said{{preflight.BypassCount, works, ""}}},
		"its own address":             {kubeadm, func(f *preflight.Facts) { f.Balanced = preflight.Known(false) }, []said{{preflight.BypassCount, works, ""}}},
		"metrics refused": {kubeadm, func(f *preflight.Facts) {
			f.About, f.Rights[preflight.ReadMetrics] = preflight.Unknown[signals.About]("no"), preflight.Known(false)
		}, []said{{preflight.BypassCount, impossible, "system:monitoring"}, {preflight.Overload, unknown, ""}}},
		"a feature off": {kubeadm, func(f *preflight.Facts) {
			f.About = preflight.Known(signals.About{Features: map[string]bool{"WatchList": false, "ConsistentListFromCache": true}})
		}, []said{{preflight.Relay, limited, "--feature-gates=WatchList=true"}}},
		"no priority and fairness": {kubeadm, func(f *preflight.Facts) { f.PriorityAndFairness = preflight.Known(preflight.PriorityAndFairness{}) },
			[]said{{preflight.Jail, impossible, "--enable-priority-and-fairness"}}},
		"an old API of it": {kubeadm, func(f *preflight.Facts) {
			f.PriorityAndFairness = preflight.Known(preflight.PriorityAndFairness{On: true, Versions: []string{"v1beta3"}})
		}, []said{{preflight.Jail, limited, "v1beta3"}}},
		"may not delete pods": {kubeadm, func(f *preflight.Facts) { f.Rights[preflight.DeletePods] = preflight.Known(false) }, []said{{preflight.Rollout, limited, "delete pods"}}},
		"webhook tokens": {kubeadm, func(f *preflight.Facts) {
			f.Flags = preflight.Known(preflight.Flags{Values: map[string][]string{"authentication-token-webhook-config-file": {"/x"}}})
		}, []said{{preflight.TokenNames, limited, "webhook"}}},

		"etcd: four members": {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember {
			for i := range m {
				m[i].Members = 4
			}
			return m
		}), []said{{preflight.EtcdCare, limited, "even number"}}},
		"etcd: a learner": {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { m[0].Members, m[0].Learners = 4, 1; return m }), []said{{preflight.EtcdCare, works, "learners"}}},
		"etcd: full":      {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { m[1].DBBytes = 7 << 30; return m }), []said{{preflight.EtcdCare, limited, "80 %"}}},
		"etcd: no leader": {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { m[1].HasLeader = false; return m }), []said{{preflight.EtcdCare, limited, "no leader"}}},
		"etcd: alarm":     {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { m[1].Alarms = []string{"NOSPACE"}; return m }), []said{{preflight.EtcdCare, limited, "NOSPACE"}}},
		"etcd: one does not talk": {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember {
			m[2] = preflight.EtcdMember{Endpoint: "c", Unreachable: "refused"}
			return m
		}), []said{{preflight.EtcdCare, unknown, "refused"}}},
		"etcd: two versions":  {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { m[2].Version = "3.5.1"; return m }), []said{{preflight.EtcdCare, limited, "upgrade"}}},
		"etcd: not all named": {kubeadm, etcd(func(m []preflight.EtcdMember) []preflight.EtcdMember { return m[:1] }), []said{{preflight.EtcdCare, limited, "1 of 3"}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := tc.from()
			if tc.change != nil {
				tc.change(f)
			}
			got := statuses(t, f)
			for _, want := range tc.want {
				r := got[want.part]
				if text := strings.Join(append(r.Why, r.Change...), "\n"); r.Status != want.status || !strings.Contains(text, want.words) {
					t.Errorf("%s: want %s because of %q, got %s because of\n%s", want.part, want.status, want.words, r.Status, text)
				}
				if r.Status != preflight.Works && len(r.Why) == 0 {
					t.Errorf("%s is %s, and nobody knows why", want.part, r.Status)
				}
			}
		})
	}
}

func TestFailed(t *testing.T) {
	judge := func(f *preflight.Facts, parts ...preflight.Part) []preflight.Result {
		results, err := preflight.Judge(f, parts...)
		if err != nil {
			t.Fatal(err)
		}
		return results
	}
	noWay := kubeadm()
	noWay.Authentication = preflight.Known(preflight.Authentication{})
	noWay.MayGrantImpersonation = preflight.Known(false)
	eksWithout := eks()
	for name, tc := range map[string]struct {
		results []preflight.Result
		asked   []preflight.Part
		want    bool
	}{
		"all of kubeadm":                       {judge(kubeadm()), nil, false},
		"all of EKS: no break-glass lane":      {judge(eksWithout), nil, true},
		"EKS, one way of two for the gate":     {judge(eksWithout, preflight.GateActs), []preflight.Part{preflight.GateActs}, false},
		"EKS, the other way":                   {judge(eksWithout, preflight.GateProxy), []preflight.Part{preflight.GateProxy}, true},
		"no way for the gate":                  {judge(noWay), nil, true},
		"a planned part that was asked for":    {judge(eksWithout, preflight.EtcdCare), []preflight.Part{preflight.EtcdCare}, true},
		"nothing is known: nothing impossible": {judge(&preflight.Facts{}), nil, false},
	} {
		if got := preflight.Failed(tc.results, tc.asked...); got != tc.want {
			t.Errorf("%s: want %t, got %t", name, tc.want, got)
		}
	}
	if _, err := preflight.Judge(kubeadm(), "flight"); !errors.Is(err, preflight.ErrNoPart) {
		t.Errorf("a part that is none: %v", err)
	}
}

// The JSON is for programs: what is known, and why not.
func TestFactsAsJSON(t *testing.T) {
	for name, f := range map[string]*preflight.Facts{"kubeadm": kubeadm(), "EKS": eks()} {
		data, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		got := new(preflight.Facts)
		if err := json.Unmarshal(data, got); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(got)
		if diff := cmp.Diff(string(data), string(again), cmpopts.AcyclicTransformer("lines", func(s string) []string { return strings.Split(s, ",") })); err != nil || diff != "" {
			t.Errorf("%s, there and back: %v\n%s", name, err, diff)
		}
	}
	var f preflight.Fact[int]
	if err := json.Unmarshal([]byte(`{}`), &f); err == nil {
		t.Error("a fact that is neither known nor unknown")
	}
	if f.Why() != "not looked for" {
		t.Errorf("the zero fact: %q", f.Why())
	}
}
