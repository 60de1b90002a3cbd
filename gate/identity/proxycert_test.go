package identity

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

func TestProxyCertificateWarnings(t *testing.T) {
	authority := func(name string) *pki.CA {
		ca, err := pki.NewCA(name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	cluster, frontProxy := authority("cluster"), authority("front-proxy")
	clients := x509.NewCertPool()
	clients.AddCert(cluster.Cert)
	const nameless = "nameless" // our own authority issues no certificate without a name
	for name, test := range map[string]struct {
		ca   *pki.CA
		spec pki.Spec
		mode v1alpha1.IdentityMode
		want []string
	}{
		"good":                {frontProxy, pki.Spec{CommonName: "seakeep-gate", Client: true}, v1alpha1.FrontProxy, nil},
		"kubeadm's":           {frontProxy, pki.Spec{CommonName: "front-proxy-client", Client: true}, v1alpha1.FrontProxy, []string{"aggregated"}},
		"nameless":            {frontProxy, pki.Spec{CommonName: nameless, Client: true}, v1alpha1.FrontProxy, []string{"no common name"}},
		"a client of the CA":  {cluster, pki.Spec{CommonName: "seakeep-gate", Client: true}, v1alpha1.FrontProxy, []string{"must be another one"}},
		"also a server":       {frontProxy, pki.Spec{CommonName: "seakeep-gate", Client: true, Server: true}, v1alpha1.FrontProxy, []string{"also good for serving"}},
		"only a server":       {frontProxy, pki.Spec{CommonName: "seakeep-gate", Server: true}, v1alpha1.FrontProxy, []string{"not for client", "also good for serving"}},
		"impersonating":       {cluster, pki.Spec{CommonName: "seakeep-gate", Client: true}, v1alpha1.Impersonation, nil},
		"impersonating, root": {cluster, pki.Spec{CommonName: "seakeep-gate", Organizations: []string{"system:masters"}, Client: true}, v1alpha1.Impersonation, []string{"system:masters"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.spec.Lifetime = time.Hour
			pair, err := test.ca.Issue(test.spec)
			if err != nil {
				t.Fatal(err)
			}
			if test.spec.CommonName == nameless {
				pair.Cert.Subject.CommonName = ""
			}
			got := ProxyCertificateWarnings(pair.Cert, test.mode, clients, time.Now())
			if len(got) != len(test.want) {
				t.Fatalf("%d warnings, want %d: %q", len(got), len(test.want), got)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("warning %q, want %q", got[i], want)
				}
			}
		})
	}
}
