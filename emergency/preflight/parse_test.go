package preflight

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseArgs(t *testing.T) {
	got := parseArgs([]string{"kube-apiserver", "--a=1", "--b", "2", "--c", "--d=x=y", "-v", "4", "--", "--=x", "--e"})
	want := map[string]string{"a": "1", "b": "2", "c": "true", "d": "x=y", "e": "true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
}

func TestMergeFlags(t *testing.T) {
	flags := mergeFlags([][]string{{"--same=1", "--advertise-address=a", "--audit-log-path=x"}, {"--same=1", "--advertise-address=b", "--audit-log-path=y"}})
	if value, ok := flags.value("same"); !ok || value != "1" {
		t.Errorf("a flag that all set the same: %q", value)
	}
	if _, ok := flags.value("audit-log-path"); ok {
		t.Error("a flag with two values has one")
	}
	if diff := cmp.Diff([]string{"audit-log-path"}, flags.differing()); diff != "" {
		t.Errorf("differing (-want +got):\n%s", diff)
	}
}

func TestRecognise(t *testing.T) {
	for name, tc := range map[string]struct {
		evidence Evidence
		want     string // "" is unknown
		managed  bool
	}{
		"EKS by its version":         {Evidence{Version: "v1.31.2-eks-7f9249a", ControlPlanePods: -1}, "Amazon EKS", true},
		"EKS by its address":         {Evidence{Version: "v1.31.2", Server: "https://ABC.gr7.eu-west-1.eks.amazonaws.com"}, "Amazon EKS", true},
		"GKE":                        {Evidence{Version: "v1.31.2-gke.1115000"}, "Google GKE", true},
		"AKS by its address":         {Evidence{Version: "v1.31.2", Server: "https://x-dns-1.hcp.westeurope.azmk8s.io:443"}, "Azure AKS", true},
		"DOKS by its nodes":          {Evidence{Version: "v1.31.2", NodeLabels: []string{"a", "doks.digitalocean.com/node-id"}}, "DigitalOcean DOKS", true},
		"k3s":                        {Evidence{Version: "v1.31.2+k3s1"}, "k3s", false},
		"OpenShift":                  {Evidence{Version: "v1.31.2", Groups: []string{"apps", "config.openshift.io"}}, "OpenShift", false},
		"kubeadm":                    {Evidence{Version: "v1.31.2", ControlPlanePods: 3}, "self-managed", false},
		"kubeadm on EC2":             {Evidence{Version: "v1.31.2", ControlPlanePods: 3, ProviderIDs: []string{"aws:///eu-west-1a/i-1"}}, "self-managed", false},
		"nodes of a name alone":      {Evidence{Version: "v1.31.2", ProviderIDs: []string{"aws:///eu-west-1a/i-1"}}, "", false},
		"a name that only resembles": {Evidence{Version: "v1.31.2", Server: "https://azmk8s.io.example.com", ControlPlanePods: -1}, "", false},
		"nothing":                    {Evidence{}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, known := recognise(tc.evidence).Get()
			if known != (tc.want != "") || got.Name != tc.want || got.Managed != tc.managed {
				t.Errorf("want %q, managed %t; got %+v", tc.want, tc.managed, got)
			}
		})
	}
}

func TestBalanced(t *testing.T) {
	endpoints := []string{"10.0.0.1:6443", "[fd00::1]:6443"}
	for server, want := range map[string]bool{"https://10.0.0.1:6443": false, "https://[fd00::1]": false, "https://api.example.com": true, "https://10.0.0.9:6443": true} {
		if got, known := balanced(server, endpoints).Get(); !known || got != want {
			t.Errorf("%s: want %t, got %t, known %t", server, want, got, known)
		}
	}
	if _, known := balanced("https://10.0.0.1", nil).Get(); known {
		t.Error("without endpoints it is not known")
	}
}

func TestServerIn(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"a kubeconfig":         {"apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {server: \"https://a:6443\"}\n", "https://a:6443"},
		"kubeadm":              {"apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\ncontrolPlaneEndpoint: api.example.com:6443\n", "api.example.com:6443"},
		"kubeadm, no endpoint": {"kind: ClusterConfiguration\n", ""},
		"nothing":              {"", ""},
		"no YAML":              {"\t: {", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := serverIn(tc.text); got != tc.want || (err != nil) != (tc.want == "") {
				t.Errorf("want %q, got %q, %v", tc.want, got, err)
			}
		})
	}
}

func TestParseAuthenticationRefuses(t *testing.T) {
	for name, data := range map[string]map[string]string{
		"no certificate": {"client-ca-file": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
		"no list":        {"requestheader-allowed-names": "front-proxy-client"},
	} {
		if a, err := parseAuthentication(data); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// Everything read is written by somebody else.
func FuzzParsers(f *testing.F) {
	f.Add("--=b\x00--a=b\x00--c\x00d")
	f.Add("apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: x}}]")
	f.Add(`["X-Remote-User"]`)
	f.Add(`{"header":{"member_id":"1"},"leader":"1","dbSize":"-1","members":[{"isLearner":true}],"alarms":[{"alarm":"NOSPACE"}]}`)
	f.Add("v1.31+")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range parseArgs(strings.Split(text, "\x00")) {
			if name == "" {
				t.Error("a flag without a name")
			}
		}
		if server, err := serverIn(text); (server == "") != (err != nil) {
			t.Errorf("server %q and error %v", server, err)
		}
		_, _ = parseAuthentication(map[string]string{"client-ca-file": text, "requestheader-allowed-names": text})
		var m EtcdMember
		if err := m.readStatus([]byte(text)); err == nil && (m.DBBytes < 0 || m.Leader && !m.HasLeader) {
			t.Errorf("%+v", m)
		}
		m.readMembers([]byte(text))
		m.readAlarms([]byte(text))
		if minor, ok := minorOf(text); ok && minor < 0 {
			t.Errorf("minor %d of %q", minor, text)
		}
		recognise(Evidence{Version: text, Server: text, Groups: []string{text}, NodeLabels: []string{text}, ProviderIDs: []string{text}})
	})
}
