package bake

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// kubeadm's, of v1.36.
const kubeadm = `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
`

// NodeLocal DNSCache's, of its documentation.
const nodeLocal = `cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    bind 169.254.20.10 10.96.0.10
    forward . 10.96.0.11 {
            force_tcp
    }
}
in-addr.arpa:53 {
    cache 30
}
.:53 {
    cache 30
    forward . /etc/resolv.conf
}
`

func TestCorefile(t *testing.T) {
	for name, tc := range map[string]struct {
		text   string
		want   map[string]time.Duration // by what follows the name
		unread []string
	}{
		"kubeadm": {kubeadm, map[string]time.Duration{".:53: cache": 30 * time.Second, ".:53: clients of kubernetes's names": 30 * time.Second}, nil},
		"node-local": {nodeLocal, map[string]time.Duration{
			"cluster.local:53: cache": 30 * time.Second, "in-addr.arpa:53: cache": 30 * time.Second, ".:53: cache": 30 * time.Second,
		}, nil},
		"a cache with its defaults": {". {\n cache\n}", map[string]time.Duration{".: cache": time.Hour}, nil},
		"stale for an hour":         {". {\n cache 60 {\n serve_stale\n }\n}", map[string]time.Duration{".: cache": time.Minute, ".: cache with serve_stale": time.Hour + time.Minute}, nil},
		"stale for as long as said": {". {\n cache 60 {\n serve_stale 20m verify\n }\n}", map[string]time.Duration{".: cache": time.Minute, ".: cache with serve_stale": 21 * time.Minute}, nil},
		"a least TTL":               {". {\n cache {\n success 1000 30 300\n denial 1000 5\n }\n}", map[string]time.Duration{".: cache": 5 * time.Minute}, nil},
		"a snippet":                 {"(c) {\n cache 1200\n}\nexample.org example.net {\n import c\n}", map[string]time.Duration{"example.org example.net: cache": 20 * time.Minute}, nil},
		"a file":                    {". {\n import /etc/coredns/custom/*.override\n cache 30 # of \"answers\n}", map[string]time.Duration{".: cache": 30 * time.Second}, []string{"import /etc/coredns/custom/*.override"}},
		"a kubernetes without ttl":  {". {\n kubernetes cluster.local\n}", map[string]time.Duration{".: clients of kubernetes's names": 5 * time.Second}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ttls, unread, err := Corefile("x", tc.text)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]time.Duration{}
			for _, ttl := range ttls {
				got[strings.TrimPrefix(ttl.Source, "x ")] = ttl.TTL
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("lifetimes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.unread, unread); diff != "" {
				t.Errorf("unread (-want +got):\n%s", diff)
			}
		})
	}
	for name, text := range map[string]string{"not closed": ". {\n cache 30\n", "closed twice": ". {\n}\n}", "no block": ".:53", "a quote": ". {\n\"x\n}", "no name": ". {\n {\n}\n}"} {
		if _, _, err := Corefile("x", text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzCorefile(f *testing.F) {
	f.Add(kubeadm)
	f.Add(nodeLocal)
	f.Add("(a) {\n import a\n}\n. {\n import a\n}")
	f.Fuzz(func(t *testing.T, text string) {
		ttls, _, err := Corefile("x", text)
		if err != nil {
			return
		}
		for _, ttl := range ttls {
			if ttl.TTL < 0 || ttl.Source == "" {
				t.Errorf("%+v", ttl)
			}
		}
	})
}

func TestNeed(t *testing.T) {
	spec := v1alpha1.RolloutBake{
		MinDuration: &metav1.Duration{Duration: 10 * time.Minute}, Factor: 2, DetectionWindow: &metav1.Duration{Duration: 3 * time.Minute},
		CacheTTLs: []v1alpha1.RolloutCacheTTL{{Name: "the JVM", TTL: metav1.Duration{Duration: time.Minute}}},
	}
	need, err := Of(spec, []TTL{{"kube-system/coredns .:53: cache", 30 * time.Second}}, field.NewPath("bake"))
	if err != nil || need.Least != 5*time.Minute || need.Longest.Source != "the JVM" {
		t.Errorf("need %+v, %v", need, err)
	}
	need, err = Of(spec, []TTL{{"kube-system/node-local-dns .:53: cache", 20 * time.Minute}}, field.NewPath("bake"))
	if err == nil || err.Field != "bake.minDuration" || need.Least != 43*time.Minute || !strings.Contains(err.Detail, "node-local-dns") {
		t.Errorf("a bake of 10 minutes with a cache of 20: need %+v, %v", need, err)
	}
}

func TestClock(t *testing.T) {
	start := time.Unix(1.7e9, 0)
	const gap = 90 * time.Second
	pass := verdict.Look{Verdict: verdict.Pass}
	waits := verdict.Look{Verdict: verdict.Unknown, Findings: []verdict.Finding{{Check: verdict.CheckRow, Verdict: verdict.Unknown}, {Check: "a", Verdict: verdict.Pass}}}
	blind := verdict.Look{Verdict: verdict.Unknown, Findings: []verdict.Finding{{Check: "a", Verdict: verdict.Unknown}}}
	fail := verdict.Look{Verdict: verdict.Fail}
	type tick struct {
		at    time.Duration
		key   string
		ready time.Duration // -1: not all are
		look  verdict.Look
		want  time.Duration
	}
	for name, ticks := range map[string][]tick{
		"counts from ready on, while it is looked": {
			{0, "r1/1", -1, pass, 0}, {time.Minute, "r1/1", 30 * time.Second, waits, 30 * time.Second}, {2 * time.Minute, "r1/1", 30 * time.Second, pass, 90 * time.Second},
		},
		"looked at late: what nobody saw does not count": {
			{time.Hour, "r1/1", 0, pass, 0}, {time.Hour + time.Minute, "r1/1", 0, pass, time.Minute},
		},
		"the engine was dead for an hour": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {time.Hour, "r1/1", 0, pass, time.Minute}, {time.Hour + time.Minute, "r1/1", 0, pass, 2 * time.Minute},
		},
		"no data stops it, and does not take back": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {2 * time.Minute, "r1/1", 0, blind, time.Minute}, {3 * time.Minute, "r1/1", 0, pass, time.Minute}, {4 * time.Minute, "r1/1", 0, pass, 2 * time.Minute},
		},
		"harm takes it back": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {2 * time.Minute, "r1/1", 0, fail, 0}, {3 * time.Minute, "r1/1", 0, pass, 0}, {4 * time.Minute, "r1/1", 0, pass, time.Minute},
		},
		"another pod of the step": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {2 * time.Minute, "r1/1", 90 * time.Second, pass, 30 * time.Second},
		},
		"the next step starts from nothing": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {2 * time.Minute, "r1/2", 0, pass, 0},
		},
		"a clock that was set back": {
			{time.Minute, "r1/1", 0, pass, time.Minute}, {30 * time.Second, "r1/1", 0, pass, time.Minute}, {90 * time.Second, "r1/1", 0, pass, 2 * time.Minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c Clock
			for _, k := range ticks {
				ready := time.Time{}
				if k.ready >= 0 {
					ready = start.Add(k.ready)
				}
				c.Tick(start.Add(k.at), k.key, ready, k.look, gap)
				if got := c.Accrued(); got != k.want {
					t.Errorf("at %s: %s, want %s", k.at, got, k.want)
				}
				// Each time through the disk, as after a kill -9.
				data, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				c = Clock{}
				if err := json.Unmarshal(data, &c); err != nil {
					t.Fatal(err)
				}
			}
			need := Need{Duration: ticks[len(ticks)-1].want}
			if !c.Done(need) || c.Done(Need{Duration: need.Duration + time.Second}) {
				t.Errorf("done at %s: %s", c.Accrued(), c.Left(need))
			}
		})
	}
}
