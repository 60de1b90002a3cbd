// Package flow says what a request is: who sends it, what it asks for, from where, by which lane. Every later room of
// the corridor decides on a flow.Request and never parses the HTTP request again.
package flow

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Certainty is how a caller's name is known.
type Certainty int

const (
	// Unverified: no credential, or one that could not be verified offline. Caller.User is
	// "unverified:<source address>", so that such callers share one bucket per source.
	Unverified Certainty = iota
	// TokenVerified: a bearer token whose signature, issuer, audience and expiry were verified offline. Good
	// enough for limiting; the API server authenticates it again and only its word authorizes.
	TokenVerified
	// CertificateVerified: a client certificate verified against the client CA.
	CertificateVerified
)

// Caller is who sends a request.
type Caller struct {
	User      string
	UID       string
	Groups    []string
	Extra     map[string][]string
	Certainty Certainty
	// Bearer is true when the request carries a bearer token, verified or not: it goes to the token pool.
	Bearer bool
}

// Lane is the way a request came in.
type Lane string

// The lanes of the gate.
const (
	Standard   Lane = "standard"
	BreakGlass Lane = "break-glass"
)

// Request is one request as every room after identity sees it. It is built once and not changed.
type Request struct {
	Caller    Caller
	UserAgent string
	Source    netip.Addr
	Lane      Lane
	Arrived   time.Time

	// Verb is the Kubernetes verb, or the lower-case HTTP method of a non-resource request.
	Verb        string
	APIGroup    string
	APIVersion  string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Path        string
	Scope       v1alpha1.RequestScope
	// FieldSelector and LabelSelector are the raw query values.
	FieldSelector string
	LabelSelector string

	// InitialEvents is true for a watch that first sends the objects that exist: sendInitialEvents=true, or a
	// watch from version "" or "0". It costs the API server what a LIST costs.
	InitialEvents bool
	// LongRunning requests (watch, exec, attach, port-forward, proxy, log -f) are streams: they have no time limit
	// and their duration says nothing about latency.
	LongRunning bool
	// Upgrade is true when the client asks for another protocol (SPDY, WebSocket).
	Upgrade bool
}

// IsList is true when the request makes the API server produce a whole collection.
func (r *Request) IsList() bool { return r.Verb == "list" || r.InitialEvents }

// Unbounded is true for what the API server sets no time limit to: streams, and a log read to its end, which takes as long
// as there is log.
func (r *Request) Unbounded() bool { return r.LongRunning || r.Subresource == "log" }

// ResourcePath is "resource" or "resource/subresource", or the path's first segment for non-resource requests:
// a closed-enough set for the ledger.
func (r *Request) ResourcePath() string {
	switch {
	case r.Resource == "":
		segment, _, _ := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
		return "/" + segment
	case r.Subresource != "":
		return r.Resource + "/" + r.Subresource
	default:
		return r.Resource
	}
}

// ServiceAccountNamespace is the namespace of a service account caller, "" for others.
func (c *Caller) ServiceAccountNamespace() string {
	rest, ok := strings.CutPrefix(c.User, "system:serviceaccount:")
	if !ok {
		return ""
	}
	namespace, _, ok := strings.Cut(rest, ":")
	if !ok {
		return ""
	}
	return namespace
}

// resolver parses paths exactly as the API server does, because it is the API server's own.
var resolver = &request.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

var (
	errMethod = errors.New("CONNECT and TRACE have no meaning in the Kubernetes API")
	errTarget = errors.New("the request target must begin with a slash")
)

// checkTarget refuses what would reach the API server as something else than what is classified here. A target such as
// "http:https://server:6443/api/v1/secrets" has an empty path, and net/http sends what stands after the scheme.
// CONNECT would ask for a tunnel, TRACE for the headers the gate adds.
func checkTarget(r *http.Request) error {
	switch {
	case r.Method == http.MethodConnect, r.Method == http.MethodTrace:
		return errMethod
	case r.URL.Opaque != "", !strings.HasPrefix(r.URL.Path, "/"):
		return errTarget
	}
	return nil
}

// Classify builds the flow of an HTTP request whose caller is known. It fails only on a path the API server itself
// would refuse to parse, and on what could be understood in two ways; the error is for the client.
func Classify(r *http.Request, caller Caller, lane Lane, arrived time.Time) (*Request, error) {
	if err := checkTarget(r); err != nil {
		return nil, err
	}
	info, err := resolver.NewRequestInfo(r)
	if err != nil {
		return nil, err
	}
	f := &Request{
		Caller:        caller,
		UserAgent:     r.UserAgent(),
		Source:        SourceOf(r),
		Lane:          lane,
		Arrived:       arrived,
		Verb:          info.Verb,
		APIGroup:      info.APIGroup,
		APIVersion:    info.APIVersion,
		Resource:      info.Resource,
		Subresource:   info.Subresource,
		Namespace:     info.Namespace,
		Name:          info.Name,
		Path:          info.Path,
		FieldSelector: info.FieldSelector,
		LabelSelector: info.LabelSelector,
		Upgrade:       IsUpgrade(r),
	}
	if !info.IsResourceRequest {
		f.Resource, f.Subresource, f.APIGroup = "", "", ""
	}
	f.Scope = scopeOf(info)
	f.InitialEvents = f.Verb == "watch" && asksForInitialEvents(r)
	f.LongRunning = f.Upgrade || longRunning(f, r)
	return f, nil
}

func scopeOf(info *request.RequestInfo) v1alpha1.RequestScope {
	switch {
	case !info.IsResourceRequest:
		return v1alpha1.ScopeNonResource
	case info.Name != "" || info.Verb == "create":
		return v1alpha1.ScopeObject
	case info.Namespace != "":
		return v1alpha1.ScopeNamespace
	default:
		return v1alpha1.ScopeCluster
	}
}

func asksForInitialEvents(r *http.Request) bool {
	q := r.URL.Query()
	if q.Has("sendInitialEvents") {
		return Flag(q, "sendInitialEvents")
	}
	version := q.Get("resourceVersion")
	return version == "" || version == "0"
}

// longRunning follows the API server's own definition (watch and proxy verbs, and the streaming subresources),
// except that only a following log is a stream.
func longRunning(f *Request, r *http.Request) bool {
	if f.Verb == "watch" || f.Verb == "proxy" {
		return true
	}
	switch f.Subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	case "log":
		return Flag(r.URL.Query(), "follow")
	}
	return false
}

// IsUpgrade is true when the client asks for another protocol, which exists in HTTP/1.1 only.
func IsUpgrade(r *http.Request) bool {
	if r.ProtoMajor != 1 || r.Header.Get("Upgrade") == "" {
		return false
	}
	for _, value := range r.Header.Values("Connection") {
		for token := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// SourceOf is the client's address as the listener saw it; forwarding headers are claims and are not read.
func SourceOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// Origin is whom an address stands for: the address itself, or in IPv6 the /64 around it, because one host may take
// every address of its own.
func Origin(source netip.Addr) string {
	if source.Is6() {
		if prefix, err := source.WithZone("").Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return source.String()
}

// MayUpgrade is true when the request may switch protocols: only to what the Kubernetes API speaks, and only where it
// does (kubernetes/kubernetes#72112, #72113).
func MayUpgrade(f *Request, r *http.Request) bool {
	protocol := strings.ToLower(r.Header.Get("Upgrade"))
	if protocol != "websocket" && !strings.HasPrefix(protocol, "spdy/") {
		return false
	}
	switch f.Subresource {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return f.Verb == "watch" && protocol == "websocket"
}
