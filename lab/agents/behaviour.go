// Package agents runs, for every Running pod of a DaemonSet whose pod template says so in annotations, the load that
// pod's program would put on the API server: its own connection, its ServiceAccount's token, its own user agent.
// KWOK's pods run nothing, and in the incident of 2024-12-11 it was the nodes' agents that took the control plane
// down. As the behaviour is in the template, rolling a DaemonSet changes the load and deleting a pod ends it: the
// remedies of the incident work here as they do in life.
package agents

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The annotations of a pod template that describe an agent. Only the verb is needed for a pod to be one.
const (
	prefix                    = "seakeep.dev/agent-"
	AnnotationVerb            = prefix + "verb"             // list, watchlist, get or leak
	AnnotationResource        = prefix + "resource"         // pods (default), deployments.apps, widgets.v1beta1.example.com
	AnnotationScope           = prefix + "scope"            // cluster (default), node (by spec.nodeName) or namespace (the pod's)
	AnnotationMediaType       = prefix + "media-type"       // json (default) or protobuf
	AnnotationPeriod          = prefix + "period"           // between the starts of two requests, default 30s, at least 10ms
	AnnotationJitter          = prefix + "jitter"           // ratio of the period added at random, 0–1, default 0.1
	AnnotationBurst           = prefix + "burst"            // requests at start-up, all at once, default 1
	AnnotationParallel        = prefix + "parallel"         // loops of such requests side by side, 1–64, default 1
	AnnotationUserAgent       = prefix + "user-agent"       // default DAEMONSET/IMAGE-TAG
	AnnotationResourceVersion = prefix + "resource-version" // empty (most recent, default) or 0 (from the API server's cache)
	AnnotationCompression     = prefix + "compression"      // gzip (default, as client-go) or none
)

// Verbs of an agent.
const (
	VerbList      = "list"      // GET of a collection
	VerbWatchList = "watchlist" // WATCH that begins with the collection, as recent client-go does
	VerbGet       = "get"       // GET of the agent's own pod or node
	VerbLeak      = "leak"      // one WATCH more each period, which is never closed
)

// Scopes of an agent's requests.
const (
	ScopeCluster   = "cluster"
	ScopeNode      = "node"
	ScopeNamespace = "namespace"
)

// Bounds of a behaviour: what a template says is outside input, and one lab is one machine.
const (
	minPeriod = 10 * time.Millisecond
	maxPeriod = 24 * time.Hour
	maxBurst  = 100
	maxLoops  = 64
	// maxLeaked is how many watches an agent leaks at most: a memory full of them is no leak any more.
	maxLeaked = 5000
)

// Behaviour is what an agent does.
type Behaviour struct {
	Verb       string
	Resource   schema.GroupVersionResource
	Scope      string
	Protobuf   bool
	Period     time.Duration
	Jitter     float64
	Burst      int
	Parallel   int
	UserAgent  string // empty: the default
	FromCache  bool   // resourceVersion=0
	Compressed bool
}

// ParseBehaviour reads a behaviour from a pod's annotations. ok is false if they describe none.
func ParseBehaviour(annotations map[string]string) (b Behaviour, ok bool, err error) {
	if _, ok := annotations[AnnotationVerb]; !ok {
		return Behaviour{}, false, nil
	}
	b = Behaviour{}
	p := parser{annotations: annotations}
	b.Verb = p.oneOf(AnnotationVerb, VerbList, VerbWatchList, VerbGet, VerbLeak)
	b.Resource = p.resource()
	b.Scope = p.oneOf(AnnotationScope, ScopeCluster, ScopeNode, ScopeNamespace)
	b.Protobuf = p.oneOf(AnnotationMediaType, "json", "protobuf") == "protobuf"
	b.Period = p.period()
	b.Jitter = p.jitter()
	b.Burst = p.number(AnnotationBurst, maxBurst)
	b.Parallel = p.number(AnnotationParallel, maxLoops)
	b.UserAgent = p.userAgent()
	b.FromCache = p.oneOf(AnnotationResourceVersion, "", "0") == "0"
	b.Compressed = p.oneOf(AnnotationCompression, "gzip", "none") == "gzip"
	if p.err == nil && b.Verb == VerbGet && b.Resource.Resource != "pods" && b.Resource.Resource != "nodes" {
		p.fail(AnnotationResource, b.Resource.Resource, "pods or nodes for verb get")
	}
	if p.err == nil && b.Scope == ScopeNode && b.Verb != VerbGet && b.Resource.GroupResource() != (schema.GroupResource{Resource: "pods"}) {
		p.fail(AnnotationScope, b.Scope, "cluster or namespace for anything but pods: only they are selected by node")
	}
	if p.err != nil {
		return Behaviour{}, false, p.err
	}
	return b, true, nil
}

// parser keeps the first error.
type parser struct {
	annotations map[string]string
	err         error
}

func (p *parser) fail(key, value, want string) {
	if p.err == nil {
		p.err = fmt.Errorf("annotation %s must be %s, got %q", key, want, value)
	}
}

// oneOf returns the annotation's value, which must be one of the choices; the first is the default.
func (p *parser) oneOf(key string, choices ...string) string {
	value, ok := p.annotations[key]
	if !ok {
		return choices[0]
	}
	if !slices.Contains(choices, value) {
		p.fail(key, value, "one of "+strconv.Quote(strings.Join(choices, ", ")))
	}
	return value
}

func (p *parser) resource() schema.GroupVersionResource {
	value, ok := p.annotations[AnnotationResource]
	if !ok {
		value = "pods"
	}
	for _, r := range value {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-') {
			p.fail(AnnotationResource, value, "a resource such as pods or deployments.apps")
		}
	}
	// resource.version.group names a version; with fewer dots it is resource.group in version v1.
	gvr, gr := schema.ParseResourceArg(value)
	if gvr == nil || !strings.HasPrefix(gvr.Version, "v") || len(gvr.Version) < 2 || gvr.Version[1] < '1' || gvr.Version[1] > '9' {
		full := gr.WithVersion("v1")
		gvr = &full
	}
	if gvr.Resource == "" || strings.HasSuffix(value, ".") || strings.Contains(value, "..") {
		p.fail(AnnotationResource, value, "a resource such as pods or deployments.apps")
	}
	return *gvr
}

func (p *parser) period() time.Duration {
	value, ok := p.annotations[AnnotationPeriod]
	if !ok {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < minPeriod || d > maxPeriod {
		p.fail(AnnotationPeriod, value, fmt.Sprintf("a duration of %s–%s", minPeriod, maxPeriod))
	}
	return d
}

func (p *parser) jitter() float64 {
	value, ok := p.annotations[AnnotationJitter]
	if !ok {
		return 0.1
	}
	ratio, err := strconv.ParseFloat(value, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		p.fail(AnnotationJitter, value, "a ratio of 0–1")
	}
	return ratio
}

// number returns an annotation's, at least 1, which is the default.
func (p *parser) number(key string, most int) int {
	value, ok := p.annotations[key]
	if !ok {
		return 1
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		p.fail(key, value, fmt.Sprintf("a number of 1–%d", most))
	}
	return n
}

func (p *parser) userAgent() string {
	value := p.annotations[AnnotationUserAgent]
	// A line end in a header would make two headers.
	if len(value) > 256 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
		p.fail(AnnotationUserAgent, value, "at most 256 printable ASCII characters")
	}
	return value
}

// defaultUserAgent is NAME/TAG of the image, as programs that use client-go call themselves NAME/VERSION.
func defaultUserAgent(daemonSet, image string) string {
	image, _, _ = strings.Cut(image, "@")
	last := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, ok := strings.Cut(last, ":")
	if !ok || tag == "" {
		tag = "latest"
	}
	return daemonSet + "/" + tag
}

// path returns the URL path and query of the agent's request; name and namespace are its pod's, node its node.
func (b Behaviour) path(namespace, name, node string) string {
	root := "/apis/" + b.Resource.Group + "/" + b.Resource.Version
	if b.Resource.Group == "" {
		root = "/api/" + b.Resource.Version
	}
	var query []string
	if b.FromCache && b.Verb != VerbWatchList {
		query = append(query, "resourceVersion=0")
	}
	if b.Verb == VerbGet {
		object := root + "/nodes/" + node
		if b.Resource.Resource == "pods" {
			object = root + "/namespaces/" + namespace + "/pods/" + name
		}
		return join(object, query)
	}
	collection := root + "/" + b.Resource.Resource
	switch b.Scope {
	case ScopeNamespace:
		collection = root + "/namespaces/" + namespace + "/" + b.Resource.Resource
	case ScopeNode:
		query = append(query, "fieldSelector=spec.nodeName%3D"+node)
	}
	if b.Verb == VerbWatchList {
		version := ""
		if b.FromCache {
			version = "0"
		}
		// client-go's reflector asks exactly this.
		query = append(query, "watch=true", "sendInitialEvents=true", "allowWatchBookmarks=true",
			"resourceVersionMatch=NotOlderThan", "resourceVersion="+version,
			"timeoutSeconds="+strconv.Itoa(max(1, int(b.Period.Seconds()))))
	}
	if b.Verb == VerbLeak {
		// That nothing matches: what is leaked is the watch, not what it reads.
		query = append(query, "watch=true", "labelSelector=seakeep.dev%2Fleaked")
	}
	return join(collection, query)
}

func join(path string, query []string) string {
	if len(query) == 0 {
		return path
	}
	return path + "?" + strings.Join(query, "&")
}

// header returns what every request of the agent says of itself, the token left out.
func (b Behaviour) header(userAgent string) http.Header {
	accept := "application/json"
	if b.Protobuf {
		accept = "application/vnd.kubernetes.protobuf"
		if b.Verb == VerbWatchList {
			accept += ";stream=watch"
		}
	}
	h := http.Header{"Accept": {accept}, "User-Agent": {userAgent}}
	// Said by hand, so that the transport does not unpack what is thrown away: packing is the API server's cost and
	// belongs to the load, unpacking is ours and does not.
	if b.Compressed {
		h.Set("Accept-Encoding", "gzip")
	}
	return h
}
