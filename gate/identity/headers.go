package identity

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/client-go/transport"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// ErrBadHeaders says a client tried to steer identity headers; the answer is 400.
var ErrBadHeaders = errors.New("bad identity headers")

const (
	remotePrefix      = "x-remote-"
	impersonatePrefix = "impersonate-"
)

// StripHeaders removes every header by which a client could claim an identity the gate vouches for, in every
// spelling: servers behind us may fold underscores into hyphens. Impersonate-* in its proper spelling is left: it is
// a request the API server authorizes against the caller's own rights.
//
// A Connection header that names an identity header is refused rather than stripped: hop-by-hop removal would take
// away the client's own Impersonate-User and so run the request with more rights than asked for (CVE-2021-31999).
func StripHeaders(h http.Header) error {
	for _, value := range h.Values("Connection") {
		for token := range strings.SplitSeq(value, ",") {
			if name := fold(token); isIdentity(name) || name == "authorization" {
				return fmt.Errorf("%w: the Connection header names %q", ErrBadHeaders, strings.TrimSpace(token))
			}
		}
	}
	for name := range h {
		folded := fold(name)
		misspelled := !strings.EqualFold(name, folded)
		if strings.HasPrefix(folded, remotePrefix) || misspelled && (isIdentity(folded) || folded == "authorization") {
			delete(h, name)
		}
	}
	return nil
}

func isIdentity(folded string) bool {
	return strings.HasPrefix(folded, remotePrefix) || strings.HasPrefix(folded, impersonatePrefix)
}

// fold brings every spelling of a header's name to one.
func fold(name string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
}

// CarriesImpersonation is true when the client asks the API server to act as someone else.
func CarriesImpersonation(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(fold(name), impersonatePrefix) {
			return true
		}
	}
	return false
}

// SetHeaders writes the identity of a caller with a verified certificate for the API server. Callers with a token and
// anonymous ones are left alone: their own credential speaks, on connections that carry no certificate of ours.
func SetHeaders(r *http.Request, caller *flow.Caller, mode v1alpha1.IdentityMode) {
	if caller.Certainty != flow.CertificateVerified {
		return
	}
	// The certificate decided; a token beside it would reach the API server as a second credential.
	r.Header.Del("Authorization")
	if mode == v1alpha1.Impersonation {
		setImpersonation(r, caller)
		return
	}
	transport.SetAuthProxyHeaders(r, caller.User, caller.UID, withoutAuthenticated(caller.Groups), caller.Extra)
}

func setImpersonation(r *http.Request, caller *flow.Caller) {
	r.Header.Set(transport.ImpersonateUserHeader, caller.User)
	if caller.UID != "" {
		r.Header.Set(transport.ImpersonateUIDHeader, caller.UID)
	}
	for _, group := range withoutAuthenticated(caller.Groups) {
		r.Header.Add(transport.ImpersonateGroupHeader, group)
	}
	for key, values := range caller.Extra {
		for _, value := range values {
			r.Header.Add(transport.ImpersonateUserExtraHeaderPrefix+escapeExtraKey(key), value)
		}
	}
}

// withoutAuthenticated leaves out the group the API server adds itself.
func withoutAuthenticated(groups []string) []string {
	kept := make([]string, 0, len(groups))
	for _, group := range groups {
		if group != authenticatedGroup {
			kept = append(kept, group)
		}
	}
	return kept
}

// escapeExtraKey percent-encodes what may not stand in a header's name; the API server undoes it.
func escapeExtraKey(key string) string {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&'*+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
