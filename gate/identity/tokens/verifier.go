package tokens

import (
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// maxTokenBytes is the largest token looked at. A projected token is about 1 KiB; an ID token with hundreds of groups
// stays under this.
const maxTokenBytes = 16 << 10

// algorithms are the asymmetric ones the API server accepts. "none" and the HMAC family are not among them: with HMAC a
// public key would be a shared secret.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.PS256, jose.PS384, jose.PS512,
}

// Options are what a Verifier needs.
type Options struct {
	// ServiceAccounts are the API server's settings; nil recognises no service account.
	ServiceAccounts *v1alpha1.ServiceAccountKeys
	// OIDC are the issuers of ID tokens, defaults set.
	OIDC []v1alpha1.OIDCIssuer
	// Clock defaults to time.Now.
	Clock func() time.Time
	// Log must not be nil. Tokens are never logged.
	Log *slog.Logger
	// MaxCached bounds the results kept; default 16384. A result takes about 500 bytes.
	MaxCached int
}

// Identity is who a token names, as the API server would see him. It is shared: not to be changed.
type Identity struct {
	User   string
	UID    string
	Groups []string
	Extra  map[string][]string
	// Expires is when the token ends; zero for one that does not.
	Expires time.Time
}

// Verifier verifies bearer tokens. It is safe for concurrent use.
type Verifier struct {
	opts Options
	// keys is replaced whole when a file changes.
	keys      atomic.Pointer[keyring]
	reloading sync.Mutex
	cache     *cache
}

// New reads the key files. One that cannot be read or holds no usable key is an error, except the key set of an issuer
// with a JWKSURL: Run will fetch it.
func New(opts Options) (*Verifier, error) {
	if opts.Log == nil {
		return nil, errors.New("making a token verifier: Log must not be nil")
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.MaxCached <= 0 {
		opts.MaxCached = 16384
	}
	keys, err := readKeys(&opts, nil)
	if err != nil {
		return nil, err
	}
	v := &Verifier{opts: opts, cache: newCache(opts.MaxCached)}
	v.keys.Store(keys)
	return v, nil
}

// Verify says who the token names. It is false for everything that cannot be verified: a foreign issuer, a wrong
// signature, an expired token, something that is no JWT at all. It does no I/O.
func (v *Verifier) Verify(token string) (Identity, bool) {
	if len(token) == 0 || len(token) > maxTokenBytes || strings.Count(token, ".") != 2 {
		return Identity{}, false
	}
	now := v.opts.Clock()
	sum := sha256.Sum256([]byte(token))
	keys := v.keys.Load()
	if hit, ok := v.cache.get(sum, keys, now); ok {
		return hit.identity, hit.verified
	}
	identity, until, ok := keys.verify(token, now)
	v.cache.put(sum, result{identity: identity, verified: ok, keys: keys, until: until}, now)
	return identity, ok
}

// verify does the work; until is the end of the result's life, zero for as long as the cache likes.
func (k *keyring) verify(token string, now time.Time) (identity Identity, until time.Time, ok bool) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return Identity{}, now.Add(failureLife), false
	}
	// The issuer is read before the signature is checked, to pick the keys; it is checked again with them.
	var claimed struct {
		Issuer string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claimed); err != nil {
		return Identity{}, now.Add(failureLife), false
	}
	if k.accounts != nil && (claimed.Issuer == legacyIssuer || slices.Contains(k.accounts.issuers, claimed.Issuer)) {
		identity, until, ok = k.accounts.verify(parsed, now)
	}
	for i := range k.issuers {
		if ok {
			break
		}
		if k.issuers[i].config.IssuerURL == claimed.Issuer {
			identity, until, ok = k.issuers[i].verify(parsed, now)
		}
	}
	if !ok {
		return Identity{}, now.Add(failureLife), false
	}
	return identity, until, true
}
