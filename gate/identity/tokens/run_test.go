package tokens

import (
	"bytes"
	"context"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
)

// running runs the verifier until the test ends and waits for its end.
func running(t *testing.T, v *Verifier) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, reached func() bool) {
	t.Helper()
	testkit.Within(t, what, 30*time.Second, reached)
}

// Keys rotate without a restart: the new key is taken, the old one loses its names, cached ones too; a file that is
// spoiled leaves the last good keys.
func TestKeysReload(t *testing.T) {
	f := newFixture(t)
	running(t, f.Verifier)
	old := sign(t, ecKey, jose.ES256, "", podToken)
	rotated := sign(t, foreign, jose.ES256, "", podToken)
	if _, ok := f.Verify(old); !ok {
		t.Fatal("not verified before the rotation")
	}
	write(t, f.saFile+".new", publicPEM(t, foreign))
	if err := os.Rename(f.saFile+".new", f.saFile); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new key is taken", func() bool { _, ok := f.Verify(rotated); return ok })
	if _, ok := f.Verify(old); ok {
		t.Error("the key taken out still names people, from the cache")
	}

	before := f.keys.Load()
	write(t, f.saFile, []byte("half a fi"))
	eventually(t, "the spoiled file is seen", func() bool { return f.keys.Load() != before })
	if _, ok := f.Verify(rotated); !ok {
		t.Error("a spoiled file took the last good keys away")
	}
}

// An issuer's keys are fetched into the file, and what an issuer answers wrongly changes neither file nor keys.
func TestFetch(t *testing.T) {
	first := keySet(t, jose.JSONWebKey{Key: rsaKey.Public(), KeyID: "one", Algorithm: "RS256"})
	var answer atomic.Pointer[http.HandlerFunc]
	says := func(h http.HandlerFunc) { answer.Store(&h) }
	body := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	defer server.Close()
	plain := httptest.NewServer(body(keySet(t, jose.JSONWebKey{Key: foreign.Public(), KeyID: "one"})))
	defer plain.Close()

	folder := t.TempDir()
	caFile := filepath.Join(folder, "ca.crt")
	write(t, caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	f := newFixture(t)
	issuer := f.issuer()
	issuer.JWKSFile, issuer.JWKSURL, issuer.CAFile = filepath.Join(folder, "jwks.json"), server.URL, caFile
	v, err := New(Options{OIDC: []v1alpha1.OIDCIssuer{issuer}, Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	token := sign(t, rsaKey, jose.RS256, "one", idToken)
	if _, ok := v.Verify(token); ok {
		t.Fatal("verified without keys")
	}

	says(body(first))
	running(t, v)
	eventually(t, "the key set is fetched", func() bool { _, ok := v.Verify(token); return ok })

	for name, test := range map[string]http.HandlerFunc{
		"an error":                   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no JSON":                    body([]byte("<html>login</html>")),
		"no key":                     body([]byte(`{"keys":[]}`)),
		"a symmetric key":            body(keySet(t, jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "one"})),
		"too much":                   body(append(bytes.Repeat([]byte(" "), maxKeyFileBytes), first...)),
		"a redirect away from https": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) },
		"a redirect to itself":       func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, server.URL, http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			says(test)
			if err := v.fetch(t.Context(), issuer); err == nil {
				t.Error("the answer was taken")
			}
			if data, err := os.ReadFile(issuer.JWKSFile); err != nil || !bytes.Equal(data, first) {
				t.Errorf("the file changed: %v", err)
			}
			if _, ok := v.Verify(token); !ok {
				t.Error("the last good keys are gone")
			}
		})
	}

	says(body(keySet(t, jose.JSONWebKey{Key: ecKey.Public(), KeyID: "two", Algorithm: "ES256"})))
	if err := v.fetch(t.Context(), issuer); err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Verify(token); ok {
		t.Error("a key the issuer took out still names people")
	}
	if _, ok := v.Verify(sign(t, ecKey, jose.ES256, "two", idToken)); !ok {
		t.Error("the issuer's new key is not taken")
	}
}

// An issuer that cannot be trusted is not asked for keys.
func TestFetchVerifiesTheIssuer(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	f := newFixture(t)
	issuer := f.issuer()
	issuer.JWKSURL = server.URL // and no CAFile: the system's authorities do not know it
	if err := f.fetch(t.Context(), issuer); err == nil {
		t.Error("an unknown certificate was accepted")
	}
}
