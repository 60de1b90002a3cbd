package credentials

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/internal/pki"
)

// now is whole seconds, because certificates are.
var now = time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	ca, err := InitAuthority(AuthorityOptions{Dir: t.TempDir(), Name: "break-glass", Lifetime: 365 * 24 * time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestInitAuthorityKeepsTheKeyPrivateAndTheOldCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	opts := AuthorityOptions{Dir: dir, Name: "break-glass", Lifetime: time.Hour, Now: now}
	made, err := InitAuthority(opts)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, AuthorityKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the key's mode is %#o, want 0600", got)
	}
	if _, err := InitAuthority(opts); err == nil {
		t.Error("a second CA replaced the first")
	}
	loaded, err := LoadAuthority(filepath.Join(dir, AuthorityCertFile), filepath.Join(dir, AuthorityKeyFile), now)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Certificate.Equal(made.Certificate) {
		t.Error("the CA on disk is not the one made")
	}
}

func TestLoadAuthorityRefuses(t *testing.T) {
	write := func(t *testing.T, dir string, ca bool, usage x509.KeyUsage, mode os.FileMode) (string, string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial, err := newSerial()
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: "odd"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: ca, BasicConstraintsValid: true, KeyUsage: usage,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		keyPEM, err := pki.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
		if err := os.WriteFile(certFile, encodeCertificate(der), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keyFile, keyPEM, mode); err != nil {
			t.Fatal(err)
		}
		return certFile, keyFile
	}
	tests := map[string]struct {
		ca    bool
		usage x509.KeyUsage
		mode  os.FileMode
		now   time.Time
		want  string
	}{
		"key others can read": {true, x509.KeyUsageCertSign, 0o640, now, "owner only"},
		"not a CA":            {false, x509.KeyUsageDigitalSignature, 0o600, now, "not a CA"},
		"may not sign":        {true, x509.KeyUsageDigitalSignature, 0o600, now, "certSign"},
		"expired":             {true, x509.KeyUsageCertSign, 0o600, now.Add(2 * time.Hour), "expired"},
		"not yet valid":       {true, x509.KeyUsageCertSign, 0o600, now.Add(-2 * time.Hour), "not valid before"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			certFile, keyFile := write(t, t.TempDir(), test.ca, test.usage, test.mode)
			_, err := LoadAuthority(certFile, keyFile, test.now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		certFile, _ := write(t, t.TempDir(), true, x509.KeyUsageCertSign, 0o600)
		_, keyFile := write(t, t.TempDir(), true, x509.KeyUsageCertSign, 0o600)
		if _, err := LoadAuthority(certFile, keyFile, now); err == nil {
			t.Error("a key that does not belong to the CA was accepted")
		}
	})
}

func TestIssue(t *testing.T) {
	ca := newAuthority(t)
	credential, err := ca.Issue(Request{Name: "alice", Groups: []string{Masters, "oncall"}, Lifetime: DefaultLifetime, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	verify := func(at time.Time) error {
		_, err := credential.Certificate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	for _, at := range []time.Time{now.Add(-time.Minute), now, now.Add(DefaultLifetime - time.Second)} {
		if err := verify(at); err != nil {
			t.Errorf("at %v: %v", at, err)
		}
	}
	if err := verify(now.Add(DefaultLifetime + time.Second)); err == nil {
		t.Error("the credential outlives its lifetime")
	}
	if got := credential.Certificate.Subject.CommonName; got != "alice" {
		t.Errorf("common name %q, want alice", got)
	}
	if diff := cmp.Diff([]string{"oncall", Masters}, credential.Certificate.Subject.Organization); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	if credential.Certificate.IsCA {
		t.Error("an engineer became a CA")
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newAuthority(t)
	good := Request{Name: "alice", Groups: []string{Masters}, Lifetime: time.Hour, Now: now}
	tests := map[string]struct {
		change func(*Request)
		want   string
	}{
		"no name":            {func(r *Request) { r.Name = "" }, "name"},
		"a component's name": {func(r *Request) { r.Name = "system:kube-scheduler" }, "system:"},
		"a line break":       {func(r *Request) { r.Name = "alice\nX-Remote-Group: x" }, "control"},
		"no group":           {func(r *Request) { r.Groups = nil }, "group"},
		"an empty group":     {func(r *Request) { r.Groups = []string{""} }, "group"},
		"for a month":        {func(r *Request) { r.Lifetime = 30 * 24 * time.Hour }, "at most"},
		"for a second":       {func(r *Request) { r.Lifetime = time.Second }, "at least"},
		"longer than the CA": {func(r *Request) { r.Lifetime, r.AllowLong = 1000*24*time.Hour, true }, "outlive"},
		"a CSR that is none": {func(r *Request) { r.CSR = []byte("hello") }, "CERTIFICATE REQUEST"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			req := good
			test.change(&req)
			_, err := ca.Issue(req)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
}

func newCSR(t testing.TB, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestIssueFromCSRTakesItsKeyOnly(t *testing.T) {
	ca := newAuthority(t)
	credential, err := ca.Issue(Request{Name: "alice", Groups: []string{"oncall"}, Lifetime: time.Hour, CSR: newCSR(t, "mallory"), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if got := credential.Certificate.Subject.CommonName; got != "alice" {
		t.Errorf("the CSR chose its own name: %q", got)
	}
	if len(credential.KeyPEM) != 0 {
		t.Error("a key came with a credential made from a CSR")
	}
	if _, err := Kubeconfig(credential, []Server{{URL: "https://127.0.0.1:7443", CA: encodeCertificate(ca.Certificate.Raw)}}, ""); err == nil {
		t.Error("a kubeconfig without any key was made")
	}
}

func TestKubeconfig(t *testing.T) {
	ca := newAuthority(t)
	credential, err := ca.Issue(Request{Name: "alice", Groups: []string{Masters}, Lifetime: time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	pool := encodeCertificate(ca.Certificate.Raw)
	data, err := Kubeconfig(credential, []Server{
		{URL: "https://127.0.0.1:7443", CA: pool}, {URL: "https://127.0.0.1:6443", CA: pool}, {URL: "https://127.0.0.1:6444", CA: pool},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"break-glass", "direct", "direct-2"}, contextOrder(config.Contexts)); diff != "" {
		t.Errorf("contexts (-want +got):\n%s", diff)
	}
	if config.CurrentContext != LaneContext {
		t.Errorf("current context %q, want %q", config.CurrentContext, LaneContext)
	}
	if got := config.Clusters["direct"].Server; got != "https://127.0.0.1:6443" {
		t.Errorf("direct goes to %q", got)
	}
	if !bytes.Equal(config.AuthInfos["alice"].ClientKeyData, credential.KeyPEM) {
		t.Error("the kubeconfig does not hold the key")
	}
}

func TestKubeconfigRefuses(t *testing.T) {
	ca := newAuthority(t)
	credential, err := ca.Issue(Request{Name: "alice", Groups: []string{Masters}, Lifetime: time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	pool := encodeCertificate(ca.Certificate.Raw)
	tests := map[string][]Server{
		"no server":       nil,
		"plain HTTP":      {{URL: "http://127.0.0.1:7443", CA: pool}},
		"no CA":           {{URL: "https://127.0.0.1:7443"}},
		"a key in the CA": {{URL: "https://127.0.0.1:7443", CA: append(bytes.Clone(pool), credential.KeyPEM...)}},
	}
	for name, servers := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Kubeconfig(credential, servers, ""); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestWriteKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alice.kubeconfig")
	if err := WriteKubeconfig(path, []byte("one"), false); err != nil {
		t.Fatal(err)
	}
	if err := WriteKubeconfig(path, []byte("two"), false); err == nil {
		t.Error("an existing credential was replaced without being asked")
	}
	if err := WriteKubeconfig(path, []byte("three"), true); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != "three" || info.Mode().Perm() != 0o600 {
		t.Errorf("got %q with mode %#o, want three with 0600", data, info.Mode().Perm())
	}
}

func FuzzParseCSR(f *testing.F) {
	f.Add(newCSR(f, "alice"))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := parseCSR(data)
		if err == nil && csr.PublicKey == nil {
			t.Error("a CSR without a public key was accepted")
		}
	})
}
