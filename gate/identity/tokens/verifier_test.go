package tokens

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	rsaKey  = generate(func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	ecKey   = generate(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	foreign = generate(func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
)

func generate(make func() (crypto.Signer, error)) crypto.Signer {
	key, err := make()
	if err != nil {
		panic(err)
	}
	return key
}

const (
	clusterIssuer = "https://kubernetes.default.svc"
	oidcIssuer    = "https://login.example.com"
)

var now = time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)

type claims map[string]any

// with returns a copy with some claims replaced; nil takes one out.
func (c claims) with(changes claims) claims {
	c = maps.Clone(c)
	for name, value := range changes {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

var podToken = claims{
	"iss": clusterIssuer, "aud": []string{clusterIssuer}, "sub": "system:serviceaccount:telemetry:agent", "jti": "4711",
	"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	"kubernetes.io": claims{
		"namespace":      "telemetry",
		"serviceaccount": claims{"name": "agent", "uid": "sa-uid"},
		"pod":            claims{"name": "agent-x", "uid": "pod-uid"},
		"node":           claims{"name": "node-1", "uid": "node-uid"},
	},
}

var idToken = claims{
	"iss": oidcIssuer, "aud": "kubernetes", "sub": "1234", "email": "jane@example.com", "groups": []string{"dev", "ops"},
	"exp": now.Add(time.Hour).Unix(),
}

func sign(t testing.TB, key any, algorithm jose.SignatureAlgorithm, id string, payload any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func publicPEM(t testing.TB, keys ...crypto.Signer) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, key := range keys {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return b.Bytes()
}

func keySet(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	data, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fixture is a verifier of one cluster and one issuer, its files and its log.
type fixture struct {
	*Verifier
	saFile, jwksFile string
	log              bytes.Buffer
	now              time.Time
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	folder := t.TempDir()
	f := &fixture{saFile: filepath.Join(folder, "sa.pub"), jwksFile: filepath.Join(folder, "jwks.json"), now: now}
	write(t, f.saFile, publicPEM(t, rsaKey, ecKey))
	write(t, f.jwksFile, keySet(t, jose.JSONWebKey{Key: rsaKey.Public(), KeyID: "one", Algorithm: "RS256", Use: "sig"}))
	var err error
	f.Verifier, err = New(Options{
		ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{clusterIssuer}, KeyFiles: []string{f.saFile}},
		OIDC:            []v1alpha1.OIDCIssuer{f.issuer()},
		Clock:           func() time.Time { return f.now },
		Log:             slog.New(slog.NewTextHandler(&f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) issuer() v1alpha1.OIDCIssuer {
	prefix := oidcIssuer + "#"
	return v1alpha1.OIDCIssuer{
		IssuerURL: oidcIssuer, ClientID: "kubernetes", UsernameClaim: "sub", UsernamePrefix: &prefix,
		GroupsClaim: "groups", GroupsPrefix: "oidc:", JWKSFile: f.jwksFile,
	}
}

func write(t testing.TB, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifiedIdentities(t *testing.T) {
	agent := Identity{
		User: "system:serviceaccount:telemetry:agent", UID: "sa-uid",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:telemetry", "system:authenticated"},
		Extra: map[string][]string{
			"authentication.kubernetes.io/credential-id": {"JTI=4711"},
			"authentication.kubernetes.io/pod-name":      {"agent-x"}, "authentication.kubernetes.io/pod-uid": {"pod-uid"},
			"authentication.kubernetes.io/node-name": {"node-1"}, "authentication.kubernetes.io/node-uid": {"node-uid"},
		},
		Expires: now.Add(time.Hour),
	}
	jane := Identity{
		User: oidcIssuer + "#1234", Groups: []string{"oidc:dev", "oidc:ops", "system:authenticated"}, Expires: now.Add(time.Hour),
	}
	rsaID, err := accountKeyID(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token string
		want  Identity
	}{
		"RS256, key by its ID":    {sign(t, rsaKey, jose.RS256, rsaID, podToken), agent},
		"ES256, no key ID":        {sign(t, ecKey, jose.ES256, "", podToken), agent},
		"within the skew allowed": {sign(t, ecKey, jose.ES256, "", podToken.with(claims{"exp": now.Add(-50 * time.Second).Unix()})), withExpiry(agent, now.Add(-50*time.Second))},
		"legacy, kept in a Secret": {sign(t, rsaKey, jose.RS256, "", claims{
			"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:telemetry:agent",
			"kubernetes.io/serviceaccount/namespace": "telemetry", "kubernetes.io/serviceaccount/service-account.name": "agent",
			"kubernetes.io/serviceaccount/service-account.uid": "sa-uid", "kubernetes.io/serviceaccount/secret.name": "s",
		}), Identity{User: agent.User, UID: "sa-uid", Groups: agent.Groups}},
		"ID token":                 {sign(t, rsaKey, jose.RS256, "one", idToken), jane},
		"ID token, one group":      {sign(t, rsaKey, jose.RS256, "one", idToken.with(claims{"groups": "dev"})), withGroups(jane, "oidc:dev", "system:authenticated")},
		"ID token, no groups":      {sign(t, rsaKey, jose.RS256, "one", idToken.with(claims{"groups": nil})), withGroups(jane, "system:authenticated")},
		"ID token, two audiences":  {sign(t, rsaKey, jose.RS256, "one", idToken.with(claims{"aud": []string{"web", "kubernetes"}})), jane},
		"ID token, issuer's clock": {sign(t, rsaKey, jose.RS256, "one", idToken.with(claims{"nbf": now.Add(4 * time.Minute).Unix()})), jane},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for range 2 { // the second is the cache's answer
				got, ok := f.Verify(test.token)
				if !ok {
					t.Fatal("not verified")
				}
				if diff := cmp.Diff(test.want, got, cmp.Comparer(time.Time.Equal)); diff != "" {
					t.Errorf("identity (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func withExpiry(id Identity, at time.Time) Identity     { id.Expires = at; return id }
func withGroups(id Identity, groups ...string) Identity { id.Groups = groups; return id }
func encode(s string) string                            { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
func replaceHeader(token, header string) string {
	_, rest, _ := strings.Cut(token, ".")
	return encode(header) + "." + rest
}
func replacePayload(t *testing.T, token string, c claims) string {
	t.Helper()
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	return parts[0] + "." + encode(string(body)) + "." + parts[2]
}

func TestRefusedTokens(t *testing.T) {
	good := sign(t, ecKey, jose.ES256, "", podToken)
	anonymous, _ := json.Marshal(podToken)
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	sa := func(changes claims) string { return sign(t, ecKey, jose.ES256, "", podToken.with(changes)) }
	id := func(changes claims) string { return sign(t, rsaKey, jose.RS256, "one", idToken.with(changes)) }
	for name, token := range map[string]string{
		"nothing":                          "",
		"no token":                         "hello",
		"two parts":                        "a.b",
		"empty parts":                      "..",
		"too large":                        good + strings.Repeat("x", maxTokenBytes),
		"alg none":                         encode(`{"alg":"none"}`) + "." + encode(string(anonymous)) + ".",
		"alg none, signature kept":         replaceHeader(good, `{"alg":"none"}`),
		"HMAC with the public key's DER":   sign(t, der, jose.HS256, "", podToken),
		"HMAC with the public key's PEM":   sign(t, publicPEM(t, rsaKey), jose.HS256, "", podToken),
		"HMAC with an ID token's key":      sign(t, publicPEM(t, rsaKey), jose.HS256, "one", idToken),
		"key brought along":                replaceHeader(good, `{"alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}`),
		"critical header":                  replaceHeader(good, `{"alg":"ES256","crit":["b64"],"b64":false}`),
		"foreign key":                      sign(t, foreign, jose.ES256, "", podToken),
		"foreign key, known ID":            sign(t, foreign, jose.ES256, "one", podToken),
		"payload changed":                  replacePayload(t, good, podToken.with(claims{"sub": "system:serviceaccount:kube-system:x"})),
		"foreign issuer":                   sa(claims{"iss": "https://elsewhere"}),
		"no issuer":                        sa(claims{"iss": nil}),
		"cluster's key, OIDC issuer":       sign(t, ecKey, jose.ES256, "", idToken),
		"expired":                          sa(claims{"exp": now.Add(-2 * time.Minute).Unix()}),
		"does not expire":                  sa(claims{"exp": nil}),
		"not yet valid":                    sa(claims{"nbf": now.Add(2 * time.Minute).Unix()}),
		"issued in the future":             sa(claims{"iat": now.Add(2 * time.Minute).Unix()}),
		"another audience":                 sa(claims{"aud": []string{"vault"}}),
		"no audience":                      sa(claims{"aud": nil}),
		"subject is a user":                sa(claims{"sub": "admin"}),
		"subject and claims differ":        sa(claims{"sub": "system:serviceaccount:kube-system:agent"}),
		"subject with a path":              sa(claims{"sub": "system:serviceaccount:../x:agent"}),
		"no claims":                        sa(claims{"kubernetes.io": nil}),
		"claims of a wrong type":           sa(claims{"kubernetes.io": "x"}),
		"expiry of a wrong type":           sa(claims{"exp": "tomorrow"}),
		"ID token expired a second ago":    id(claims{"exp": now.Add(-time.Second).Unix()}),
		"ID token does not expire":         id(claims{"exp": nil}),
		"ID token of another client":       id(claims{"aud": "web"}),
		"ID token without user":            id(claims{"sub": nil}),
		"ID token, user of a wrong type":   id(claims{"sub": 7}),
		"ID token, groups of a wrong type": id(claims{"groups": []int{1}}),
		"ID token valid in an hour":        id(claims{"nbf": now.Add(time.Hour).Unix()}),
		"key's algorithm not kept":         sign(t, rsaKey, jose.PS256, "one", idToken),
		"JSON serialization":               `{"payload":"a.b","signatures":[]}.`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			for range 2 {
				if got, ok := f.Verify(token); ok || got.User != "" {
					t.Errorf("verified as %+v", got)
				}
			}
			if token != "" && strings.Contains(f.log.String(), token) {
				t.Error("the token was logged")
			}
		})
	}
}

func TestEmailIsANameOnlyWhenNotUnverified(t *testing.T) {
	for name, test := range map[string]struct {
		claims claims
		want   bool
	}{
		"not said":   {claims{}, true},
		"verified":   {claims{"email_verified": true}, true},
		"unverified": {claims{"email_verified": false}, false},
		"nonsense":   {claims{"email_verified": "yes"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			config, none := f.issuer(), ""
			config.UsernameClaim, config.UsernamePrefix = "email", &none
			v, err := New(Options{OIDC: []v1alpha1.OIDCIssuer{config}, Clock: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			got, ok := v.Verify(sign(t, rsaKey, jose.RS256, "one", idToken.with(test.claims)))
			if ok != test.want || ok && got.User != "jane@example.com" {
				t.Errorf("got %+v, %v", got, ok)
			}
		})
	}
}

func TestAudiencesReplaceTheIssuers(t *testing.T) {
	f := newFixture(t)
	v, err := New(Options{
		ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{clusterIssuer}, KeyFiles: []string{f.saFile}, Audiences: []string{"api"}},
		Clock:           func() time.Time { return now }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Verify(sign(t, ecKey, jose.ES256, "", podToken)); ok {
		t.Error("the issuer is still an audience")
	}
	if _, ok := v.Verify(sign(t, ecKey, jose.ES256, "", podToken.with(claims{"aud": []string{"api"}}))); !ok {
		t.Error("the audience named is refused")
	}
}

// A cached result ends with its token, and a failure is forgotten after a while.
func TestCacheFollowsTheClock(t *testing.T) {
	f := newFixture(t)
	token := sign(t, ecKey, jose.ES256, "", podToken)
	later := sign(t, ecKey, jose.ES256, "", podToken.with(claims{"nbf": now.Add(65 * time.Second).Unix(), "iat": nil}))
	if _, ok := f.Verify(token); !ok {
		t.Fatal("not verified")
	}
	if _, ok := f.Verify(later); ok {
		t.Fatal("verified before its time")
	}
	f.now = now.Add(failureLife + time.Second)
	if _, ok := f.Verify(later); !ok {
		t.Error("still refused when valid")
	}
	f.now = now.Add(time.Hour + 30*time.Second)
	if _, ok := f.Verify(token); !ok {
		t.Error("refused within the skew allowed")
	}
	f.now = now.Add(time.Hour + 61*time.Second)
	if _, ok := f.Verify(token); ok {
		t.Error("verified after its end, from the cache")
	}
}

// Bad tokens without end push out no good one, and both caches are bounded.
func TestCacheIsBounded(t *testing.T) {
	f := newFixture(t)
	v, err := New(Options{ServiceAccounts: f.opts.ServiceAccounts, Clock: f.opts.Clock, Log: f.opts.Log, MaxCached: 8})
	if err != nil {
		t.Fatal(err)
	}
	v.Verify(sign(t, ecKey, jose.ES256, "", podToken))
	for i := range 100 {
		v.Verify(fmt.Sprintf("%d.b.c", i))
	}
	if v.cache.good.Len() != 1 || v.cache.bad.Len() > 2 {
		t.Errorf("%d good, %d bad results", v.cache.good.Len(), v.cache.bad.Len())
	}
	for i := range 100 {
		v.Verify(sign(t, ecKey, jose.ES256, "", podToken.with(claims{"jti": fmt.Sprint(i)})))
	}
	if v.cache.good.Len() != 8 {
		t.Errorf("%d good results, want 8", v.cache.good.Len())
	}
}

func TestNewRefusesWhatItCannotRead(t *testing.T) {
	f := newFixture(t)
	symmetric := keySet(t, jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "s", Algorithm: "HS256"})
	private := keySet(t, jose.JSONWebKey{Key: rsaKey, KeyID: "p"})
	for name, test := range map[string]struct {
		sa, jwks []byte
		url      string
		want     string
	}{
		"no PEM":                    {sa: []byte("hello"), want: "must hold PEM public keys"},
		"no JSON":                   {jwks: []byte("hello"), want: "not a JSON Web Key Set"},
		"symmetric key only":        {jwks: symmetric, want: "at least one public RSA or ECDSA"},
		"private key":               {jwks: private, want: "at least one public RSA or ECDSA"},
		"too large":                 {jwks: bytes.Repeat([]byte(" "), maxKeyFileBytes+1), want: "must not be larger"},
		"absent":                    {jwks: []byte{}, want: "no such file"},
		"absent, but to be fetched": {jwks: []byte{}, url: "https://127.0.0.1:1/"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := f.opts
			folder := t.TempDir()
			if test.sa != nil {
				file := filepath.Join(folder, "sa.pub")
				write(t, file, test.sa)
				opts.ServiceAccounts = &v1alpha1.ServiceAccountKeys{Issuers: []string{clusterIssuer}, KeyFiles: []string{file}}
			}
			issuer := f.issuer()
			issuer.JWKSURL = test.url
			if test.jwks != nil {
				issuer.JWKSFile = filepath.Join(folder, "jwks.json")
				if len(test.jwks) > 0 {
					write(t, issuer.JWKSFile, test.jwks)
				}
			}
			opts.OIDC = []v1alpha1.OIDCIssuer{issuer}
			_, err := New(opts)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

// Whatever comes as a token, nobody gets a name without a signature, and nothing panics.
func FuzzVerify(f *testing.F) {
	fixture := newFixture(f)
	good := sign(f, ecKey, jose.ES256, "", podToken)
	f.Add(good)
	f.Add(sign(f, foreign, jose.ES256, "one", idToken))
	f.Add(replaceHeader(good, `{"alg":"none"}`))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		id, ok := fixture.Verify(token)
		if ok && id.User != "system:serviceaccount:telemetry:agent" {
			t.Errorf("%q is %+v", token, id)
		}
		if !ok && id.User != "" {
			t.Errorf("a refused token has a name: %+v", id)
		}
	})
}

func FuzzParseKeySet(f *testing.F) {
	f.Add(keySet(f, jose.JSONWebKey{Key: rsaKey.Public(), KeyID: "one", Algorithm: "RS256", Use: "sig"}))
	f.Add(keySet(f, jose.JSONWebKey{Key: ecKey, KeyID: "private"}))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeySet(data)
		if err == nil && len(keys) == 0 {
			t.Error("no key and no error")
		}
		for _, key := range keys {
			if !usable(key.key) {
				t.Errorf("unusable key %T", key.key)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	f := newFixture(b)
	token := sign(b, ecKey, jose.ES256, "", podToken)
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			f.Verify(token)
		}
	})
	b.Run("ES256", func(b *testing.B) {
		keys := f.keys.Load()
		for b.Loop() {
			keys.verify(token, now)
		}
	})
}
