package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity/tokens"
	"github.com/seakeep/seakeep/internal/pki"
)

// accept is a verifier that knows one token.
type accept string

func (a accept) Verify(token string) (tokens.Identity, bool) {
	return tokens.Identity{User: "system:serviceaccount:a:b"}, token == string(a)
}

func request(t *testing.T, ca *pki.CA, spec pki.Spec, token string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "https://gate/api/v1/pods", nil)
	if ca != nil {
		spec.Client = true
		pair, err := ca.Issue(spec)
		if err != nil {
			t.Fatal(err)
		}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Cert}}
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func authority(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestAuthenticate(t *testing.T) {
	ours, other := authority(t), authority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ours.Cert)
	a := New(Options{ClientCAs: pool, RefuseGroups: []string{"system:masters"}, Tokens: accept("good"), Clock: time.Now})
	jane := pki.Spec{CommonName: "jane", Organizations: []string{"dev"}, Lifetime: time.Minute}
	tests := map[string]struct {
		request       *http.Request
		wantUser      string
		wantCertainty flow.Certainty
		wantErr       error
	}{
		"a certificate":                    {request(t, ours, jane, ""), "jane", flow.CertificateVerified, nil},
		"beats a token":                    {request(t, ours, jane, "good"), "jane", flow.CertificateVerified, nil},
		"a token":                          {request(t, nil, pki.Spec{}, "good"), "system:serviceaccount:a:b", flow.TokenVerified, nil},
		"a token of nobody":                {request(t, nil, pki.Spec{}, "bad"), "unverified:192.0.2.1", flow.Unverified, nil},
		"nothing":                          {request(t, nil, pki.Spec{}, ""), "unverified:192.0.2.1", flow.Unverified, nil},
		"another authority's certificate":  {request(t, other, jane, ""), "", 0, ErrUnauthorized},
		"another authority's, and a token": {request(t, other, jane, "good"), "system:serviceaccount:a:b", flow.TokenVerified, nil},
		"a group that does not belong on this lane": {request(t, ours, pki.Spec{CommonName: "root", Organizations: []string{"system:masters"}, Lifetime: time.Minute}, ""), "", 0, ErrForbidden},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, again := range []bool{false, true} { // what is remembered must not differ from what was found
				caller, err := a.Authenticate(test.request)
				if !errors.Is(err, test.wantErr) || caller.User != test.wantUser || caller.Certainty != test.wantCertainty {
					t.Errorf("again %v: got %+v, %v", again, caller, err)
				}
			}
		})
	}
}

type counted struct {
	authenticator.Request
	times *int
}

func (c counted) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	*c.times++
	return c.Request.AuthenticateRequest(r)
}

// TestVerificationIsNotRememberedPastExpiry moves the gate's clock; the chain itself is still valid by the machine's, so
// it is verified again and not refused.
func TestVerificationIsNotRememberedPastExpiry(t *testing.T) {
	ca := authority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	now := time.Now()
	a := New(Options{ClientCAs: pool, Clock: func() time.Time { return now }})
	r := request(t, ca, pki.Spec{CommonName: "jane", Lifetime: 20 * time.Second}, "")
	if _, err := a.Authenticate(r); err != nil {
		t.Fatal(err)
	}
	verified := 0
	a.certificates = counted{a.certificates, &verified}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{10 * time.Second, 0}, {11 * time.Second, 1}} {
		now = now.Add(step.after)
		if _, err := a.Authenticate(r); err != nil {
			t.Fatal(err)
		}
		if verified != step.want {
			t.Errorf("verified %d times after %s more, want %d", verified, step.after, step.want)
		}
	}
}

// TestDistrust holds that a token the API server refused is kept apart, and only for a while.
func TestDistrust(t *testing.T) {
	now := time.Now()
	a := New(Options{Tokens: accept("good"), Clock: func() time.Time { return now }})
	r := request(t, nil, pki.Spec{}, "good")
	certainty := func() flow.Certainty {
		caller, err := a.Authenticate(r)
		if err != nil {
			t.Fatal(err)
		}
		return caller.Certainty
	}
	if certainty() != flow.TokenVerified {
		t.Fatal("the token is not verified")
	}
	a.Distrust(r)
	if certainty() != flow.Unverified {
		t.Error("the refused token is still trusted")
	}
	now = now.Add(distrustFor)
	if certainty() != flow.TokenVerified {
		t.Error("the token is never trusted again")
	}
}
