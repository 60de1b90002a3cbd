package v1alpha1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFleetEtcd(t *testing.T) {
	const over, plain = "https://10.0.0.1:2379", "http://10.0.0.1:2381"
	all := FleetEtcd{Endpoints: []string{over}, CertFile: "c", KeyFile: "k", CAFile: "ca"}
	with := func(endpoints ...string) FleetEtcd { e := all; e.Endpoints = endpoints; return e }
	for name, test := range map[string]struct {
		etcd  FleetEtcd
		want  []string // the fields refused
		files int
	}{
		"with certificates":           {all, nil, 3},
		"without TLS":                 {FleetEtcd{Endpoints: []string{plain}}, nil, 0},
		"some with TLS":               {with(plain, over), nil, 3},
		"none":                        {FleetEtcd{}, []string{"endpoints"}, 0},
		"no certificates":             {FleetEtcd{Endpoints: []string{over}}, []string{"certFile", "keyFile", "caFile"}, 3},
		"certificates, and no TLS":    {FleetEtcd{Endpoints: []string{plain}, CAFile: "ca"}, []string{"caFile"}, 3},
		"no URL":                      {with("10.0.0.1:2379", over), []string{"endpoints[0]"}, 3},
		"a path":                      {with(over + "/metrics"), []string{"endpoints[0]"}, 3},
		"a password":                  {with("https://me:pw@10.0.0.1:2379"), []string{"endpoints[0]"}, 3},
		"twice":                       {with(over, over), []string{"endpoints[1]"}, 3},
		"another scheme, without TLS": {FleetEtcd{Endpoints: []string{"unix:///x"}}, []string{"endpoints[0]"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := Fleet{Name: "f", Clusters: []FleetCluster{{Name: "c", Kubeconfig: "k", Etcd: &test.etcd}}}
			var fields []string
			for _, err := range f.Validate() {
				fields = append(fields, err.Field)
			}
			var want []string
			for _, field := range test.want {
				want = append(want, "clusters[0].etcd."+field)
			}
			if diff := cmp.Diff(want, fields); diff != "" {
				t.Errorf("refused (-want +got):\n%s", diff)
			}
			if files := f.Files(); len(files) != 1+test.files {
				t.Errorf("files: %+v", files)
			}
		})
	}
}

func TestFleetDNS(t *testing.T) {
	for server, well := range map[string]bool{"10.0.0.10:53": true, "[fd00::a]:53": true, "10.0.0.10": false, "dns.example.com:53": false, "10.0.0.10:0": false} {
		f := Fleet{Name: "f", Clusters: []FleetCluster{{Name: "c", Kubeconfig: "k", DNS: []string{server}}}}
		f.SetDefaults()
		if errs := f.Validate(); (len(errs) == 0) != well || len(errs) > 0 && errs[0].Field != "clusters[0].dns[0]" {
			t.Errorf("%s: %v", server, errs.ToAggregate())
		}
	}
}
