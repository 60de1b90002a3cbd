package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/internal/pki"
)

// lifetime of everything the lab signs; a lab is a scratch folder, not a cluster to keep.
const lifetime = 365 * 24 * time.Hour

// FrontProxyName is the common name of the client certificate a gate in front of the lab's API servers asserts
// identities with; the API servers' --requestheader-allowed-names has it.
const FrontProxyName = "seakeep-gate"

// aggregatorName is the common name of the API servers' own front-proxy certificate, for aggregated API servers.
const aggregatorName = "front-proxy-client"

// ServiceAccountIssuer is the issuer of the lab's ServiceAccount tokens, and their audience.
const ServiceAccountIssuer = "https://kubernetes.default.svc.cluster.local"

// servingNames are what clients call an API server.
var servingNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}

// PKI names the files of the lab's certificates and keys. All are PEM.
type PKI struct {
	Dir string

	ClusterCA    string // signs what API servers and gate serve with, and ordinary client certificates
	ClientCA     string // bundle the API servers verify client certificates with: cluster and break-glass authorities
	FrontProxyCA string // verifies who may assert identities in X-Remote-* headers
	// FrontProxyCert and FrontProxyKey are a gate's client certificate for asserting identities.
	FrontProxyCert, FrontProxyKey string
	// ServingCert and ServingKey are a gate's, for 127.0.0.1, localhost and the API server's in-cluster names.
	ServingCert, ServingKey string
	// BreakGlassCA and BreakGlassKey are the authority of break-glass credentials.
	BreakGlassCA, BreakGlassKey string
	// ServiceAccountKey verifies ServiceAccount tokens (a public key); ServiceAccountSigner signs them.
	ServiceAccountKey, ServiceAccountSigner string

	clusterCA, breakGlassCA *pki.CA
}

func (p *PKI) file(name string) string { return filepath.Join(p.Dir, name) }

// pkiAt names the files below dir.
func pkiAt(dir string) *PKI {
	p := &PKI{Dir: dir}
	p.ClusterCA, p.ClientCA, p.FrontProxyCA = p.file("ca.crt"), p.file("client-ca.crt"), p.file("front-proxy-ca.crt")
	p.FrontProxyCert, p.FrontProxyKey = p.file("gate-front-proxy.crt"), p.file("gate-front-proxy.key")
	p.ServingCert, p.ServingKey = p.file("gate.crt"), p.file("gate.key")
	p.BreakGlassCA, p.BreakGlassKey = p.file("break-glass-ca.crt"), p.file("break-glass-ca.key")
	p.ServiceAccountKey, p.ServiceAccountSigner = p.file("sa.pub"), p.file("sa.key")
	return p
}

// makePKI makes every certificate and key below dir.
func makePKI(dir string) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making PKI folder: %w", err)
	}
	p := pkiAt(dir)
	authorities := map[string]*pki.CA{}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd-ca", "break-glass-ca"} {
		ca, err := pki.NewCA("seakeep-lab-"+name, lifetime)
		if err != nil {
			return nil, err
		}
		if err := ca.Write(p.file(name+".crt"), p.file(name+".key")); err != nil {
			return nil, err
		}
		authorities[name] = ca
	}
	p.clusterCA, p.breakGlassCA = authorities["ca"], authorities["break-glass-ca"]

	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.IPv4(10, 96, 0, 1)}
	issue := []struct {
		file, authority string
		spec            pki.Spec
	}{
		{"apiserver", "ca", pki.Spec{CommonName: "kube-apiserver", DNSNames: servingNames, IPs: ips, Server: true}},
		{"gate", "ca", pki.Spec{CommonName: "seakeep-gate", DNSNames: servingNames, IPs: ips, Server: true}},
		{"kubelet", "ca", pki.Spec{CommonName: "kubelet", DNSNames: []string{"localhost"}, IPs: ips, Server: true}},
		{"apiserver-kubelet", "ca", pki.Spec{CommonName: "kube-apiserver-kubelet-client", Client: true}},
		{"front-proxy", "front-proxy-ca", pki.Spec{CommonName: aggregatorName, Client: true}},
		{"gate-front-proxy", "front-proxy-ca", pki.Spec{CommonName: FrontProxyName, Client: true}},
		{"etcd", "etcd-ca", pki.Spec{CommonName: "etcd", DNSNames: []string{"localhost"}, IPs: ips, Server: true, Client: true}},
		{"apiserver-etcd", "etcd-ca", pki.Spec{CommonName: "kube-apiserver-etcd-client", Client: true}},
	}
	for _, i := range issue {
		i.spec.Lifetime = lifetime
		pair, err := authorities[i.authority].Issue(i.spec)
		if err != nil {
			return nil, err
		}
		if err := pair.Write(p.file(i.file+".crt"), p.file(i.file+".key")); err != nil {
			return nil, err
		}
	}
	bundle := append(p.clusterCA.CertPEM(), p.breakGlassCA.CertPEM()...)
	if err := renameio.WriteFile(p.ClientCA, bundle, 0o644); err != nil {
		return nil, fmt.Errorf("writing client authorities: %w", err)
	}
	if err := pki.WriteSigningKey(p.ServiceAccountSigner, p.ServiceAccountKey); err != nil {
		return nil, err
	}
	return p, nil
}

// loadPKI reads a PKI that makePKI made.
func loadPKI(dir string) (p *PKI, err error) {
	p = pkiAt(dir)
	if p.clusterCA, err = pki.LoadCA(p.ClusterCA, p.file("ca.key")); err != nil {
		return nil, err
	}
	if p.breakGlassCA, err = pki.LoadCA(p.BreakGlassCA, p.BreakGlassKey); err != nil {
		return nil, err
	}
	return p, nil
}
