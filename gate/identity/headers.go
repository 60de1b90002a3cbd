package identity

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	extraPrefix       = impersonatePrefix + "extra-"
)

// Headers are the headers by which the gate tells the API server who is calling, and which therefore no client may
// send. They are immutable and safe for concurrent use.
type Headers struct {
	mode v1alpha1.IdentityMode
	// username, uid, group and extra are what is sent, in their canonical spelling; extra is a prefix.
	username, uid, group, extra string
	// names and prefixes are what is taken off, folded. X-Remote-* goes under any configuration: aggregated API
	// servers behind the API server read it too.
	names    map[string]bool
	prefixes []string
}

// NewHeaders returns the headers of a mode and of an API server's flags; names left empty are the usual ones.
func NewHeaders(mode v1alpha1.IdentityMode, names v1alpha1.RequestHeaders) *Headers {
	names = names.WithDefaults()
	h := &Headers{
		mode:     mode,
		username: http.CanonicalHeaderKey(names.Usernames[0]),
		uid:      http.CanonicalHeaderKey(names.UIDs[0]),
		group:    http.CanonicalHeaderKey(names.Groups[0]),
		extra:    http.CanonicalHeaderKey(names.ExtraPrefixes[0]),
		names:    map[string]bool{},
		prefixes: []string{remotePrefix},
	}
	for _, name := range slices.Concat(names.Usernames, names.UIDs, names.Groups) {
		h.names[fold(name)] = true
	}
	for _, prefix := range names.ExtraPrefixes {
		if folded := fold(prefix); !strings.HasPrefix(folded, remotePrefix) {
			h.prefixes = append(h.prefixes, folded)
		}
	}
	return h
}

// Strip removes every header by which a client could claim an identity the gate vouches for, in every spelling:
// servers behind us may fold other characters into hyphens (CGI and WSGI do). Impersonate-* in its proper spelling is
// left: it is a request the API server authorizes against the caller's own rights. Trailers go altogether: nothing in
// the Kubernetes API is sent in one.
//
// A Connection header that names an identity header is refused rather than stripped: hop-by-hop removal would take
// away the client's own Impersonate-User and so run the request with more rights than asked for (CVE-2021-31999).
func (h *Headers) Strip(r *http.Request) error {
	r.Trailer = nil
	for _, value := range r.Header["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			if name := fold(strings.TrimSpace(token)); h.vouches(name) || strings.HasPrefix(name, impersonatePrefix) || isCredential(name) {
				return fmt.Errorf("%w: the Connection header names %q", ErrBadHeaders, strings.TrimSpace(token))
			}
		}
	}
	for name := range r.Header {
		folded := fold(name)
		if h.vouches(folded) || strings.HasPrefix(folded, impersonatePrefix) && !isImpersonation(name) ||
			isCredential(folded) && !strings.EqualFold(name, folded) {
			delete(r.Header, name)
		}
	}
	return nil
}

// vouches is true for a folded name by which the API server would believe the gate.
func (h *Headers) vouches(folded string) bool {
	if h.names[folded] {
		return true
	}
	for _, prefix := range h.prefixes {
		if strings.HasPrefix(folded, prefix) {
			return true
		}
	}
	return false
}

// isCredential is true for the folded names of the headers in which a token travels.
func isCredential(folded string) bool {
	return folded == "authorization" || folded == "sec-websocket-protocol"
}

// isImpersonation is true for a name that the API server reads as impersonation, or may one day, letter by letter; what
// comes after the prefix of an extra is the key, percent-encoded.
func isImpersonation(name string) bool {
	lower := strings.ToLower(name)
	return strings.HasPrefix(lower, extraPrefix) || strings.HasPrefix(lower, impersonatePrefix) && lower == fold(lower)
}

// fold brings every spelling of a header's name to one.
func fold(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			return c
		}
		return '-'
	}, name)
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

// Set writes the identity of a caller with a verified certificate for the API server. Callers with a token and
// anonymous ones are left alone: their own credential speaks, on connections that carry no certificate of ours.
func (h *Headers) Set(r *http.Request, caller *flow.Caller) {
	if caller.Certainty != flow.CertificateVerified {
		return
	}
	// The certificate decided; a token beside it would reach the API server as a second credential.
	r.Header.Del("Authorization")
	if h.mode == v1alpha1.Impersonation {
		write(r.Header, caller, transport.ImpersonateUserHeader, transport.ImpersonateUIDHeader, transport.ImpersonateGroupHeader, transport.ImpersonateUserExtraHeaderPrefix)
		return
	}
	write(r.Header, caller, h.username, h.uid, h.group, h.extra)
}

func write(header http.Header, caller *flow.Caller, username, uid, group, extra string) {
	header.Set(username, caller.User)
	if caller.UID != "" {
		header.Set(uid, caller.UID)
	}
	for _, name := range withoutAuthenticated(caller.Groups) {
		header.Add(group, name)
	}
	for key, values := range caller.Extra {
		for _, value := range values {
			header.Add(extra+escapeExtraKey(key), value)
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
