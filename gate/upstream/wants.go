package upstream

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// wants says what a request needs of an API server. Whatever is not known to be answered from memory needs etcd: that is
// right more often, and a wrong guess then only spares a server that could have answered.
func wants(r *http.Request, f *flow.Request) choice.Request {
	w := choice.Request{Stream: f.LongRunning, Insistent: f.Lane == flow.BreakGlass, Seats: seatsOf(r.Context())}
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case f.Resource == "" && reading, reviews(f.APIGroup):
		w.Class = choice.Memory
	case f.Unbounded() || f.Subresource == "proxy":
	case reading && fromMemory(r.URL.RawQuery):
		w.Class = choice.Memory
	default:
		w.Proves = f.Resource != "" && builtIn(f.APIGroup) && (!reading || mostRecent(r.URL.RawQuery))
	}
	return w
}

type seatsKey struct{}

// WithSeats says how many seats a request holds, so that it is counted as that many where servers are compared; without it,
// as one.
func WithSeats(ctx context.Context, seats int) context.Context {
	if seats == 1 {
		return ctx
	}
	return context.WithValue(ctx, seatsKey{}, seats)
}

func seatsOf(ctx context.Context) float64 {
	seats, _ := ctx.Value(seatsKey{}).(int)
	return float64(seats)
}

// ownWants is wants for a request of the gate's own, which nobody has classified.
func ownWants(r *http.Request) choice.Request {
	query := r.URL.Query()
	w := choice.Request{Stream: flow.Flag(query, "watch"), Seats: seatsOf(r.Context())}
	reading := r.Method == http.MethodGet
	switch {
	case w.Stream:
	case reading && fromMemory(r.URL.RawQuery):
		w.Class = choice.Memory
	case reading && mostRecent(r.URL.RawQuery):
		w.Proves = builtIn(groupOf(r.URL.Path))
	}
	return w
}

// fromMemory is true for a GET or LIST that the API server answers from its watch cache, whatever its age.
func fromMemory(query string) bool {
	if !strings.Contains(query, "resourceVersion=0") {
		return false
	}
	q, err := url.ParseQuery(query)
	return err == nil && q.Get("resourceVersion") == "0" && q.Get("continue") == "" && q.Get("resourceVersionMatch") != "Exact"
}

// mostRecent is true for a GET or LIST that cannot be answered without asking etcd.
func mostRecent(query string) bool {
	return !strings.Contains(query, "resourceVersion=") && !strings.Contains(query, "continue=")
}

// reviews are answered by authenticators and authorizers, which keep in memory what they go by.
func reviews(group string) bool {
	return group == "authentication.k8s.io" || group == "authorization.k8s.io"
}

// builtIn is true for the groups whose objects are in the API server's own etcd. Those of aggregated API servers, metrics
// above all, are answered by somebody else; those of custom resources cannot be told from them.
func builtIn(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") && !strings.HasSuffix(group, "metrics.k8s.io")
}

// groupOf is the API group of a path; "." for one that has none.
func groupOf(path string) string {
	if strings.HasPrefix(path, "/api/") {
		return ""
	}
	rest, found := strings.CutPrefix(path, "/apis/")
	group, _, _ := strings.Cut(rest, "/")
	if !found || group == "" {
		return "."
	}
	return group
}

// patient is true when the client sets no time limit of its own: one that gives up after a millisecond says nothing about
// the server.
func patient(query string) bool { return !strings.Contains(query, "timeout=") }

// movable is true for a watch that may be ended so that it is opened again elsewhere. With bookmarks it goes on from a
// recent version and the API server sends nothing twice; without, its version may be gone, and it would read everything.
func movable(f *flow.Request, query string) bool {
	return f.Verb == "watch" && !f.Upgrade && bookmarks(query)
}

func bookmarks(query string) bool {
	if !strings.Contains(query, "allowWatchBookmarks") {
		return false
	}
	q, err := url.ParseQuery(query)
	return err == nil && flow.Flag(q, "allowWatchBookmarks")
}
