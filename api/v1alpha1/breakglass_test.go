package v1alpha1

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func goodBreakGlass() *BreakGlassConfiguration {
	return &BreakGlassConfiguration{
		Listen: BreakGlassListen{Address: "127.0.0.1:7443", CertFile: "lane.crt", KeyFile: "lane.key", ClientCAFile: "ca.crt"},
		Upstreams: []GateUpstream{
			{Name: "a", URL: "https://127.0.0.1:6443", CAFile: "cluster.crt"},
		},
		Identity:  BreakGlassIdentity{ProxyCertFile: "proxy.crt", ProxyKeyFile: "proxy.key"},
		AuditFile: "audit.log",
	}
}

func TestBreakGlassDefaults(t *testing.T) {
	c := goodBreakGlass()
	c.SetDefaults()
	if got, want := c.SqueezeAfter.Duration, 500*time.Millisecond; got != want {
		t.Errorf("squeezeAfter = %v, want %v", got, want)
	}
	if got, want := c.MemoryLimit.Value(), int64(256<<20); got != want {
		t.Errorf("memoryLimit = %d, want %d", got, want)
	}
	if c.MaxConnections != 256 {
		t.Errorf("maxConnections = %d, want 256", c.MaxConnections)
	}
	if errs := c.Validate(); len(errs) != 0 {
		t.Errorf("a good configuration is refused: %v", errs.ToAggregate())
	}
}

func TestBreakGlassValidate(t *testing.T) {
	tests := map[string]struct {
		change     func(*BreakGlassConfiguration)
		wantFields []string
	}{
		"no client CA": {
			change:     func(c *BreakGlassConfiguration) { c.Listen.ClientCAFile = "" },
			wantFields: []string{"listen.clientCAFile"},
		},
		"listening everywhere is not written out": {
			change:     func(c *BreakGlassConfiguration) { c.Listen.Address = ":7443" },
			wantFields: []string{"listen.address"},
		},
		"no API server": {
			change:     func(c *BreakGlassConfiguration) { c.Upstreams = nil },
			wantFields: []string{"upstreams"},
		},
		"API server twice": {
			change:     func(c *BreakGlassConfiguration) { c.Upstreams = append(c.Upstreams, c.Upstreams[0]) },
			wantFields: []string{"upstreams[1].name"},
		},
		"no proxy certificate": {
			change:     func(c *BreakGlassConfiguration) { c.Identity = BreakGlassIdentity{} },
			wantFields: []string{"identity.proxyCertFile", "identity.proxyKeyFile"},
		},
		"no audit": {
			change:     func(c *BreakGlassConfiguration) { c.AuditFile = "" },
			wantFields: []string{"auditFile"},
		},
		"metrics for everyone": {
			change:     func(c *BreakGlassConfiguration) { c.MetricsAddress = "0.0.0.0:9090" },
			wantFields: []string{"metricsAddress"},
		},
		"metrics on the lane's own address": {
			change:     func(c *BreakGlassConfiguration) { c.MetricsAddress = c.Listen.Address },
			wantFields: []string{"metricsAddress"},
		},
		"gate twice": {
			change:     func(c *BreakGlassConfiguration) { c.StandardGates = []string{"a.sock", "a.sock", ""} },
			wantFields: []string{"standardGates[1]", "standardGates[2]"},
		},
		"squeeze at once": {
			change:     func(c *BreakGlassConfiguration) { c.SqueezeAfter = &metav1.Duration{Duration: time.Millisecond} },
			wantFields: []string{"squeezeAfter"},
		},
		"too little memory, too few connections": {
			change: func(c *BreakGlassConfiguration) {
				little := resource.MustParse("1Mi")
				c.MemoryLimit, c.MaxConnections = &little, 1
			},
			wantFields: []string{"memoryLimit", "maxConnections"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := goodBreakGlass()
			c.SetDefaults()
			test.change(c)
			var fields []string
			for _, err := range c.Validate() {
				fields = append(fields, err.Field)
			}
			if diff := cmp.Diff(test.wantFields, fields); diff != "" {
				t.Errorf("fields refused (-want +got):\n%s", diff)
			}
		})
	}
}
