// Package identity recognises the caller of a request and keeps clients from claiming to be someone else.
//
// A client certificate is verified here and decides alone, as on the API server, where it also comes before a token.
// A bearer token is verified offline, for limiting only: it is forwarded untouched and the API server's answer to it
// is the only one that counts.
package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/utils/lru"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity/tokens"
)

// TokenVerifier verifies a bearer token without asking anyone. It is called on every request that carries one and
// must be safe for concurrent use.
type TokenVerifier interface {
	Verify(token string) (tokens.Identity, bool)
}

// Options configure an Authenticator.
type Options struct {
	// ClientCAs verify client certificates.
	ClientCAs *x509.CertPool
	// RefuseGroups may not be carried by a client certificate on this lane.
	RefuseGroups []string
	// Tokens verifies bearer tokens; nil: every token is unverified.
	Tokens TokenVerifier
	// Clock is time.Now in production.
	Clock func() time.Time
}

// Authenticator recognises callers. It is immutable and safe for concurrent use.
type Authenticator struct {
	certificates authenticator.Request
	refuse       sets.Set[string]
	tokens       TokenVerifier
	clock        func() time.Time
	// distrusted holds the hashes of tokens that verify offline but that the API server refused (a deleted pod's
	// token, a revoked one). They go with the unverifiable ones, because a 401 makes the API server close its
	// HTTP/2 connection under everyone who shares it.
	distrusted *lru.Cache
	// verified holds chains of client certificates that were verified. The authorities of an Authenticator do not change.
	verified *lru.Cache
}

// verifiedFor is how long a verified chain is believed without looking again, and never beyond its expiry. An authority
// that is taken away makes a new Authenticator, which begins with none.
const verifiedFor = time.Minute

// distrustFor is how long a refused token is kept apart. Short, because a token can become valid again: an API server
// that could not read its key answers 401 too.
const distrustFor = time.Minute

// ErrUnauthorized says the caller presented a credential that is wrong on its face; the answer is 401.
var ErrUnauthorized = errors.New("unauthorized")

// ErrForbidden says the caller is known and may not use this lane; the answer is 403.
var ErrForbidden = errors.New("forbidden")

// New returns an Authenticator.
func New(o Options) *Authenticator {
	verify := func() (x509.VerifyOptions, bool) {
		return x509.VerifyOptions{
			Roots:     o.ClientCAs,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, o.ClientCAs != nil
	}
	return &Authenticator{
		certificates: x509request.NewDynamic(verify, x509request.CommonNameUserConversion),
		refuse:       sets.New(o.RefuseGroups...),
		tokens:       o.Tokens,
		clock:        o.Clock,
		distrusted:   lru.New(4096),
		verified:     lru.New(16384),
	}
}

// Authenticate recognises the caller. An error wraps ErrUnauthorized or ErrForbidden and its text is for the client.
// A caller without any credential is not an error: the API server decides what anonymous may do.
func (a *Authenticator) Authenticate(r *http.Request) (flow.Caller, error) {
	token, hasToken := bearerToken(r)
	certificateErr := error(nil)
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		caller, ok, err := a.callerFromChain(r)
		if ok && err != nil {
			return flow.Caller{}, fmt.Errorf("%w: %w", ErrForbidden, err)
		}
		if ok {
			if refused := a.refuse.Intersection(sets.New(caller.Groups...)); refused.Len() > 0 {
				return flow.Caller{}, fmt.Errorf("%w: certificates of group %s may not use this lane; use the break-glass lane, or a certificate whose rights come from RBAC",
					ErrForbidden, strings.Join(sets.List(refused), ", "))
			}
			return caller, nil
		}
		certificateErr = err
	}
	if hasToken {
		return a.callerFromToken(r, token), nil
	}
	if certificateErr != nil {
		return flow.Caller{}, fmt.Errorf("%w: verifying the client certificate: %w", ErrUnauthorized, certificateErr)
	}
	return unverified(r, false), nil
}

// callerFromChain verifies the client's certificate, and remembers that it did: the signatures cost more than all the
// rest of the corridor, and a connection shows the same certificate with every request. When ok is true, an error says
// that the certificate is good and its words are not.
func (a *Authenticator) callerFromChain(r *http.Request) (caller flow.Caller, ok bool, err error) {
	chain := sha256.New()
	for _, certificate := range r.TLS.PeerCertificates {
		chain.Write(certificate.Raw)
	}
	key := [sha256.Size]byte(chain.Sum(nil))
	now := a.clock()
	if known, ok := a.verified.Get(key); ok && now.Before(known.(verifiedChain).until) {
		return known.(verifiedChain).caller, true, known.(verifiedChain).garbled
	}
	response, ok, err := a.certificates.AuthenticateRequest(r)
	if !ok {
		return flow.Caller{}, false, err
	}
	until := now.Add(verifiedFor)
	for _, certificate := range r.TLS.PeerCertificates {
		if certificate.NotAfter.Before(until) {
			until = certificate.NotAfter
		}
	}
	known := verifiedChain{caller: callerFrom(response), until: until}
	known.garbled = garbled(&known.caller)
	a.verified.Add(key, known)
	return known.caller, true, known.garbled
}

// verifiedChain is who a chain of certificates was found to be, shared between requests and not changed.
type verifiedChain struct {
	caller  flow.Caller
	until   time.Time
	garbled error
}

// garbled says what of a caller would not arrive at the API server as it stands in the certificate. HTTP/1.1 trims the
// white space around a header's value, so a certificate of the group "system:masters " is harmless by itself, passes
// every comparison on the way, and would be system:masters behind the gate.
func garbled(c *flow.Caller) error {
	check := func(what, value string) error {
		if strings.TrimSpace(value) != value || !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("the certificate's %s %q would be changed on its way through a header", what, value)
		}
		return nil
	}
	errs := []error{check("user", c.User), check("UID", c.UID)}
	for _, group := range c.Groups {
		errs = append(errs, check("group", group))
	}
	for key, values := range c.Extra {
		for _, value := range values {
			errs = append(errs, check("extra "+key, value))
		}
	}
	return errors.Join(errs...)
}

// Distrust is to be called when the API server answers 401 to a request whose token was verified offline.
func (a *Authenticator) Distrust(r *http.Request) {
	if token, ok := bearerToken(r); ok {
		a.distrusted.Add(sha256.Sum256([]byte(token)), a.clock().Add(distrustFor))
	}
}

func (a *Authenticator) callerFromToken(r *http.Request, token string) flow.Caller {
	if a.tokens == nil {
		return unverified(r, true)
	}
	id, ok := a.tokens.Verify(token)
	if !ok || a.isDistrusted(token) {
		return unverified(r, true)
	}
	return flow.Caller{
		User:      id.User,
		UID:       id.UID,
		Groups:    id.Groups,
		Extra:     id.Extra,
		Certainty: flow.TokenVerified,
		Bearer:    true,
	}
}

func (a *Authenticator) isDistrusted(token string) bool {
	if a.distrusted.Len() == 0 {
		return false
	}
	until, ok := a.distrusted.Get(sha256.Sum256([]byte(token)))
	return ok && a.clock().Before(until.(time.Time))
}

// CallerFromCertificate reads the caller out of a chain that was already verified at the handshake.
func CallerFromCertificate(chain []*x509.Certificate) (flow.Caller, error) {
	response, ok, err := x509request.CommonNameUserConversion.User(chain)
	if err != nil {
		return flow.Caller{}, err
	}
	if !ok {
		return flow.Caller{}, errors.New("the certificate has no common name")
	}
	return callerFrom(response), nil
}

// ClientAuth is how a standard lane's listener asks for certificates: as the API server does, so that a client with a
// token and a stale certificate still gets in.
const ClientAuth = tls.RequestClientCert

func callerFrom(response *authenticator.Response) flow.Caller {
	groups := response.User.GetGroups()
	if !slices.Contains(groups, authenticatedGroup) {
		groups = append(slices.Clone(groups), authenticatedGroup)
	}
	return flow.Caller{
		User:      response.User.GetName(),
		UID:       response.User.GetUID(),
		Groups:    groups,
		Extra:     response.User.GetExtra(),
		Certainty: flow.CertificateVerified,
	}
}

// authenticatedGroup is what the API server adds to everyone it knows; rules may match it.
const authenticatedGroup = "system:authenticated"

func unverified(r *http.Request, bearer bool) flow.Caller {
	return flow.Caller{User: "unverified:" + flow.Origin(flow.SourceOf(r)), Bearer: bearer}
}

// webSocketBearer is how a browser's WebSocket carries a token (kubernetes/kubernetes#47740).
const webSocketBearer = "base64url.bearer.authorization.k8s.io."

// bearerToken reads the token from where the API server reads it, letter by letter: the Authorization header, else, for
// a WebSocket upgrade, one of the subprotocols. Where the two would differ, a request that is anonymous to the API server
// would travel with the tokens, and its 401 would close their connection.
func bearerToken(r *http.Request) (string, bool) {
	parts := strings.SplitN(strings.TrimSpace(r.Header.Get("Authorization")), " ", 3)
	if len(parts) > 1 && strings.ToLower(parts[0]) == "bearer" && parts[1] != "" {
		return parts[1], true
	}
	if !flow.IsUpgrade(r) || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false
	}
	for _, value := range r.Header.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(value, ",") {
			encoded, ok := strings.CutPrefix(strings.TrimSpace(protocol), webSocketBearer)
			if !ok {
				continue
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err == nil && utf8.Valid(decoded) && len(decoded) > 0 {
				return string(decoded), true
			}
		}
	}
	return "", false
}
