package bake

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
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
