package v1alpha1

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestUpstreams(t *testing.T) {
	one := func(u GateUpstream) []GateUpstream {
		u.Name, u.CAFile = "a", "ca.crt"
		if u.URL == "" {
			u.URL = "https://api.example.com:6443"
		}
		return []GateUpstream{u}
	}
	every := func(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
	for name, test := range map[string]struct {
		given     []GateUpstream
		wantError string
	}{
		"one":                         {given: one(GateUpstream{})},
		"by name":                     {given: one(GateUpstream{Discover: DiscoverDNS})},
		"by slice":                    {given: one(GateUpstream{Discover: DiscoverEndpointSlices})},
		"by another slice":            {given: one(GateUpstream{Discover: DiscoverEndpointSlices, Service: "kube-system/api", Refresh: every(time.Second)})},
		"none at all":                 {wantError: "upstreams"},
		"an address has no addresses": {given: one(GateUpstream{Discover: DiscoverDNS, URL: "https://10.0.0.1:6443"}), wantError: "upstreams[0].url"},
		"another discovery":           {given: one(GateUpstream{Discover: "SRV"}), wantError: "upstreams[0].discover"},
		"a service without discovery": {given: one(GateUpstream{Service: "default/kubernetes"}), wantError: "upstreams[0].service"},
		"a service of no namespace":   {given: one(GateUpstream{Discover: DiscoverEndpointSlices, Service: "kubernetes"}), wantError: "upstreams[0].service"},
		"a service that is a path":    {given: one(GateUpstream{Discover: DiscoverEndpointSlices, Service: "a/../b"}), wantError: "upstreams[0].service"},
		"a refresh without discovery": {given: one(GateUpstream{Refresh: every(time.Second)}), wantError: "upstreams[0].refresh"},
		"a refresh that hammers":      {given: one(GateUpstream{Discover: DiscoverDNS, Refresh: every(time.Millisecond)}), wantError: "upstreams[0].refresh"},
		"the same name twice":         {given: append(one(GateUpstream{}), one(GateUpstream{})...), wantError: "upstreams[1].name"},
	} {
		t.Run(name, func(t *testing.T) {
			for i := range test.given {
				test.given[i].setDefaults()
			}
			wantErrors(t, validateUpstreams(test.given, field.NewPath("upstreams")), test.wantError)
		})
	}
}

func TestBalance(t *testing.T) {
	for given, wantError := range map[int]string{0: "", 1: "", 1000: "", -1: "watchesPerSecond", 1001: "watchesPerSecond"} {
		b := GateBalance{WatchesPerSecond: given}
		b.setDefaults()
		wantErrors(t, b.validate(field.NewPath("balance")), wantError)
	}
}
