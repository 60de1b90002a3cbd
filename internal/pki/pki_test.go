package pki

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test-ca", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestIssuedPairsAuthenticateBothWays(t *testing.T) {
	ca := newCA(t)
	dir := t.TempDir()
	caCert, caKey := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if err := ca.Write(caCert, caKey); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(caKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode of the key is %v (%v), want 0600", info.Mode(), err)
	}
	loaded, err := LoadCA(caCert, caKey)
	if err != nil {
		t.Fatal(err)
	}
	server, err := loaded.Issue(Spec{CommonName: "server", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	client, err := loaded.Issue(Spec{CommonName: "alice", Organizations: []string{"ops"}, Lifetime: time.Hour, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := LoadPool(caCert)
	if err != nil {
		t.Fatal(err)
	}

	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{server.TLS()}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		_, _ = io.WriteString(w, subject.CommonName+"/"+strings.Join(subject.Organization, ","))
	})}
	go func() { _ = srv.Serve(listener) }()
	defer srv.Close()

	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, Certificates: []tls.Certificate{client.TLS()},
	}}}
	defer c.CloseIdleConnections()
	resp, err := c.Get("https://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(body), "alice/ops"; got != want {
		t.Errorf("server saw %q, want %q", got, want)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newCA(t)
	now := time.Now()
	tests := map[string]struct {
		spec Spec
		want string
	}{
		"no name":             {Spec{Lifetime: time.Hour, Client: true}, "commonName"},
		"no lifetime":         {Spec{CommonName: "a", Client: true}, "lifetime"},
		"no usage":            {Spec{CommonName: "a", Lifetime: time.Hour}, "client, a server or both"},
		"after the authority": {Spec{CommonName: "a", NotBefore: now.Add(2 * time.Hour), Lifetime: time.Hour, Client: true}, "the authority"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ca.Issue(tc.spec)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestIssueNeverOutlivesItsAuthority(t *testing.T) {
	ca := newCA(t)
	pair, err := ca.Issue(Spec{CommonName: "a", Lifetime: 100 * time.Hour, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	if !pair.Cert.NotAfter.Equal(ca.Cert.NotAfter) {
		t.Errorf("certificate ends %s, want the authority's end %s", pair.Cert.NotAfter, ca.Cert.NotAfter)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	ca := newCA(t)
	leaf, err := ca.Issue(Spec{CommonName: "a", Lifetime: time.Minute, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := ca.Write(file("ca.crt"), file("ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := leaf.Write(file("leaf.crt"), file("leaf.key")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ cert, key, want string }{
		"not an authority": {"leaf.crt", "leaf.key", "not an authority"},
		"another's key":    {"ca.crt", "leaf.key", "does not belong"},
		"no such file":     {"none", "ca.key", "reading certificate"},
		"empty key":        {"ca.crt", "empty", "no PEM block"},
		"empty cert":       {"empty", "ca.key", "no PEM block"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := LoadCA(file(tc.cert), file(tc.key))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestWriteSigningKey(t *testing.T) {
	dir := t.TempDir()
	private, public := filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub")
	if err := WriteSigningKey(private, public); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseKey(data); err != nil {
		t.Error(err)
	}
	if data, err = os.ReadFile(public); err != nil || !strings.Contains(string(data), "BEGIN PUBLIC KEY") {
		t.Errorf("public key file holds %q (%v)", data, err)
	}
}

func FuzzParsePEM(f *testing.F) {
	ca, err := NewCA("seed", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(ca.CertPEM(), key...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := ParseCerts(data); err == nil {
			for _, cert := range certs {
				if _, err := x509.ParseCertificate(cert.Raw); err != nil {
					t.Errorf("accepted a certificate that does not parse again: %v", err)
				}
			}
		}
		if key, err := ParseKey(data); err == nil && key == nil {
			t.Error("accepted PEM without a key")
		}
	})
}
