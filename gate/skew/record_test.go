package skew

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// record is kubectl's verbs and what became of each invocation, for comparing control planes of different minors: one
// line each, in the file that $SKEW_RECORD names, if it does.
type record struct {
	version string
	played  int
	lines   []string
}

func newRecord(t *testing.T, r *rig) *record {
	t.Helper()
	version, err := r.admin.Discovery().ServerVersion()
	check(t, err)
	t.Logf("API server %s", version.GitVersion)
	return &record{version: version.GitVersion}
}

func (o *record) add(scene string, s step, got result, same bool) {
	verdict := "same"
	if !same {
		verdict = "DIFFERENT"
	}
	line := fmt.Sprintf("%s: kubectl %s: exit code %d, %s", scene, s.run, got.Code, verdict)
	if got.Code != 0 && !s.settle {
		line += ": " + strings.Join(strings.Fields(got.Stderr), " ")
	}
	o.lines = append(o.lines, line)
	o.played++
}

func (o *record) write(t *testing.T) {
	t.Helper()
	t.Logf("%d invocations, each direct and through the gate, on %s", o.played, o.version)
	file := os.Getenv("SKEW_RECORD")
	if file == "" {
		return
	}
	slices.Sort(o.lines)
	check(t, os.WriteFile(file, []byte(strings.Join(o.lines, "\n")+"\n"), 0o600))
}

// token is one of the namespace's default ServiceAccount.
func (r *rig) token(t *testing.T, namespace string) string {
	t.Helper()
	got, err := r.admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(t, err)
	return got.Status.Token
}

// request is a certificate request in base64, as a CertificateSigningRequest holds it.
func request(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	check(t, err)
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
