package limit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// subject is a request with what every rule asks of it computed once.
type subject struct {
	*flow.Request
	verbs  uint32 // the bit of its verb, and of list when it asks for initial events
	scope  uint32
	lane   uint32
	saNS   string // namespace of a service account caller
	pod    string // namespace/name of the pod that its token was issued to
	isNode string // name of a node caller
}

// verbBits number the verbs a rule can name, so that a rule compares one word; most rules differ in their verbs.
var verbBits = bits("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy",
	"connect", "post", "put", "head", "options", "trace")

var scopeBits = bits(v1alpha1.ScopeObject, v1alpha1.ScopeNamespace, v1alpha1.ScopeCluster, v1alpha1.ScopeNonResource)

// laneBits maps the API's names of lanes; flow's are looked up in laneOf.
var laneBits = bits(v1alpha1.LaneStandard, v1alpha1.LaneBreakGlass)

func bits[T comparable](names ...T) map[T]uint32 {
	m := make(map[T]uint32, len(names))
	for i, name := range names {
		m[name] = 1 << i
	}
	return m
}

func laneOf(lane flow.Lane) uint32 {
	if lane == flow.BreakGlass {
		return laneBits[v1alpha1.LaneBreakGlass]
	}
	return laneBits[v1alpha1.LaneStandard]
}

func newSubject(f *flow.Request) subject {
	s := subject{Request: f, verbs: verbBits[f.Verb], scope: scopeBits[f.Scope], lane: laneOf(f.Lane)}
	if f.InitialEvents {
		s.verbs |= verbBits["list"]
	}
	s.saNS = f.Caller.ServiceAccountNamespace()
	if names := f.Caller.Extra[serviceaccount.PodNameKey]; s.saNS != "" && len(names) == 1 {
		s.pod = s.saNS + "/" + names[0]
	}
	s.isNode, _ = strings.CutPrefix(f.Caller.User, nodePrefix)
	if len(s.isNode) == len(f.Caller.User) {
		s.isNode = ""
	}
	return s
}

// nodePrefix begins every kubelet's user name.
const nodePrefix = "system:node:"

// resourceRef is one entry of LimitMatch.Resources.
type resourceRef struct{ resource, subresource string }

// matcher is a compiled LimitMatch. Zero masks and nil lists match everything; the cheapest tests come first.
type matcher struct {
	verbs, scopes, lanes uint32
	ownNode              bool
	resources            []resourceRef
	apiGroups            []string
	users                *globs
	saNamespaces         []string
	pods                 *globs
	groups               []string
	namespaces           *globs
	names                *globs
	paths                *globs
	sources              []netip.Prefix
	userAgents           *globs
}

func compileMatch(m *v1alpha1.LimitMatch) (*matcher, error) {
	c := &matcher{
		ownNode:      m.OwnNode,
		apiGroups:    m.APIGroups,
		groups:       m.Groups,
		saNamespaces: m.ServiceAccountNamespaces,
		users:        compileGlobs(m.Users),
		pods:         compileGlobs(m.Pods),
		userAgents:   compileGlobs(m.UserAgents),
		names:        compileGlobs(m.Names),
		namespaces:   compileGlobs(m.Namespaces),
		paths:        compileGlobs(m.NonResourcePaths),
	}
	var err error
	if c.verbs, err = mask(verbBits, m.Verbs, "verb"); err != nil {
		return nil, err
	}
	if c.scopes, err = mask(scopeBits, m.Scopes, "scope"); err != nil {
		return nil, err
	}
	if c.lanes, err = mask(laneBits, m.Lanes, "lane"); err != nil {
		return nil, err
	}
	if c.lanes == 0 {
		c.lanes = laneBits[v1alpha1.LaneStandard] // the break-glass lane is meant only where it is named
	}
	for _, r := range m.Resources {
		resource, subresource, _ := strings.Cut(r, "/")
		if r == "*" {
			subresource = "*"
		}
		c.resources = append(c.resources, resourceRef{resource, subresource})
	}
	for _, cidr := range m.SourceCIDRs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("parsing source CIDR %q: %w", cidr, err)
		}
		c.sources = append(c.sources, prefix.Masked())
	}
	return c, nil
}

func mask[T comparable](known map[T]uint32, names []T, what string) (uint32, error) {
	var all uint32
	for _, name := range names {
		bit, ok := known[name]
		if !ok {
			return 0, fmt.Errorf("unknown %s %q", what, fmt.Sprint(name))
		}
		all |= bit
	}
	return all, nil
}

func (m *matcher) match(s *subject) bool {
	switch {
	case m.lanes&s.lane == 0,
		m.verbs != 0 && m.verbs&s.verbs == 0,
		m.scopes != 0 && m.scopes&s.scope == 0,
		m.ownNode && !s.ownNode(),
		m.resources != nil && !m.matchResource(s),
		m.apiGroups != nil && !m.matchAPIGroup(s),
		m.users != nil && !m.users.match(s.Caller.User),
		m.saNamespaces != nil && (s.saNS == "" || !slices.Contains(m.saNamespaces, s.saNS)),
		m.pods != nil && (s.pod == "" || !m.pods.match(s.pod)),
		m.groups != nil && !m.matchGroup(s),
		m.namespaces != nil && (s.Namespace == "" || !m.namespaces.match(s.Namespace)),
		m.names != nil && (s.Name == "" || !m.names.match(s.Name)),
		m.paths != nil && (s.Scope != v1alpha1.ScopeNonResource || !m.paths.match(s.Path)),
		m.sources != nil && !m.matchSource(s.Source),
		m.userAgents != nil && !m.userAgents.match(s.UserAgent):
		return false
	}
	return true
}

// ownNode is true when a node acts on an object of its own name. A create carries no name in its path; the API
// server's NodeRestriction admission refuses a node that creates another's.
func (s *subject) ownNode() bool {
	return s.isNode != "" && (s.Name == s.isNode || s.Name == "" && s.Verb == "create")
}

func (m *matcher) matchResource(s *subject) bool {
	if s.Resource == "" {
		return false
	}
	for _, r := range m.resources {
		if (r.resource == "*" || r.resource == s.Resource) && (r.subresource == s.Subresource || r.subresource == "*") {
			return true
		}
	}
	return false
}

func (m *matcher) matchAPIGroup(s *subject) bool {
	if s.Resource == "" {
		return false
	}
	for _, g := range m.apiGroups {
		if g == s.APIGroup || g == "*" {
			return true
		}
	}
	return false
}

func (m *matcher) matchGroup(s *subject) bool {
	for _, g := range m.groups {
		if slices.Contains(s.Caller.Groups, g) {
			return true
		}
	}
	return false
}

func (m *matcher) matchSource(source netip.Addr) bool {
	for _, p := range m.sources {
		if p.Contains(source) {
			return true
		}
	}
	return false
}
