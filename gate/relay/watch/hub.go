package watch

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/flow"
)

// Options are what a Hub needs. Upstream, Budget and Log are required.
type Options struct {
	// Upstream is the gate's own way to the API servers.
	Upstream http.RoundTripper
	// Budget is asked for the memory of every event that is kept.
	Budget Budget
	Log    *slog.Logger
	// Registerer, if set, gets the metrics.
	Registerer prometheus.Registerer

	// Events and Bytes bound what is kept for one key; a subscriber that falls behind further is ended. More lets slower
	// subscribers stay, and lets those that come back after a while be served without a watch of their own. Default
	// 10,000 and 16 MiB.
	Events, Bytes int
	// Linger is how long an upstream watch goes on that nobody follows, for those who come back. Default 10s.
	Linger time.Duration
	// Patience is how long subscribers are held while their upstream watch cannot be resumed. Default 30s: an API server
	// that restarts, or etcd without a leader, is back by then.
	Patience time.Duration
	// Spread is over how long subscribers end once Patience is over. Default 10s.
	Spread time.Duration
	// Recheck is how often a subscriber's permission is asked for again, give or take a fifth. Default 1m.
	Recheck time.Duration
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	def(&o.Linger, 10*time.Second)
	def(&o.Patience, 30*time.Second)
	def(&o.Spread, 10*time.Second)
	def(&o.Recheck, time.Minute)
	if o.Events == 0 {
		o.Events = 10_000
	}
	if o.Bytes == 0 {
		o.Bytes = 16 << 20
	}
	return o
}

// Hub gives many watches of the same thing one watch of the API server. It is safe for concurrent use.
type Hub struct {
	o       Options
	metrics *metrics

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	idle atomic.Int64 // sources that linger

	mu      sync.Mutex
	closed  bool
	sources map[what]map[string]*source // by media type as asked for
	// garbled are keys whose watch was not understood, and until when they are not tried again.
	garbled map[key]time.Time
}

const (
	// mostIdle sources linger; more than that end at once. Else a client that keeps asking for something new would
	// keep many times as many watches at the API server as it could have directly.
	mostIdle = 256
	// mostGarbled keys are remembered.
	mostGarbled = 256
)

// garbledFor is how long the API server itself serves what was not understood here.
const garbledFor = 5 * time.Minute

// what is watched, in whatever encoding.
type what struct {
	path, labels, fields string
	// filtered: the whole resource, for subscribers that want parts of it.
	filtered bool
}

// key is what one upstream watch is for.
type key struct {
	what
	accept          string
	group, resource string
}

// New returns a hub; Close ends it.
func New(o Options) *Hub {
	h := &Hub{o: o.withDefaults(), metrics: newMetrics(o.Registerer), sources: map[what]map[string]*source{}, garbled: map[key]time.Time{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// Close ends every watch and returns when nothing of the hub runs any more. Subscribers' streams end cleanly.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	h.running.Wait()
}

// NotSharedError says that a watch is not for the hub. Nothing was written: the request is to be forwarded, and the API server
// decides.
type NotSharedError struct {
	// Reason is one of the Reason constants.
	Reason string
	// Err is what happened, if anything did.
	Err error
}

// Why a watch is not shared.
const (
	// ReasonTable: the first event of a watch as Table carries the columns, the others do not, so that each is its own.
	ReasonTable = "table"
	// ReasonMediaType: the events are in an encoding that is not understood here.
	ReasonMediaType = "media_type"
	// ReasonUpstream: the API server refused the gate's watch, or could not be reached.
	ReasonUpstream = "upstream"
	// ReasonMemory: there is no memory to keep a single event.
	ReasonMemory = "memory"
	// ReasonClosed: the gate is stopping.
	ReasonClosed = "closed"
)

// Error implements error.
func (e *NotSharedError) Error() string {
	if e.Err != nil {
		return "watch is not shared (" + e.Reason + "): " + e.Err.Error()
	}
	return "watch is not shared (" + e.Reason + ")"
}

// Unwrap returns what happened.
func (e *NotSharedError) Unwrap() error { return e.Err }

var errClosed = errors.New("the gate is stopping")

// attach returns the source of the key for one more subscriber, which detaches it later. When there is none yet, one is
// started from the version.
func (h *Hub) attach(k key, from uint64) (*source, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &NotSharedError{Reason: ReasonClosed, Err: errClosed}
	}
	if s := h.sources[k.what][k.accept]; s != nil && s.join() {
		return s, nil
	}
	if until, ok := h.garbled[k]; ok {
		if time.Now().Before(until) {
			return nil, &NotSharedError{Reason: ReasonMediaType}
		}
		delete(h.garbled, k)
	}
	if h.sources[k.what] == nil {
		h.sources[k.what] = map[string]*source{}
	}
	s := newSource(h, k, from)
	h.sources[k.what][k.accept] = s
	h.running.Go(s.run)
	return s, nil
}

// remove forgets a source that ended.
func (h *Hub) remove(s *source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sources[s.key.what][s.key.accept] != s {
		return
	}
	delete(h.sources[s.key.what], s.key.accept)
	if len(h.sources[s.key.what]) == 0 {
		delete(h.sources, s.key.what)
	}
}

// shun has the API server itself serve the key for a while.
func (h *Hub) shun(k key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.garbled) >= mostGarbled {
		clear(h.garbled)
	}
	h.garbled[k] = time.Now().Add(garbledFor)
}

// each calls visit for every source, without holding the hub.
func (h *Hub) each(visit func(*source)) {
	h.mu.Lock()
	var all []*source
	for _, byMedia := range h.sources {
		for _, s := range byMedia {
			all = append(all, s)
		}
	}
	h.mu.Unlock()
	for _, s := range all {
		visit(s)
	}
}

// Current is true while a live watch of this, or of something it is part of, has seen no event after the version, in any media
// type: a LIST of that version is what the API server's watch cache holds, as far as that has told.
func (h *Hub) Current(path, labelSelector, fieldSelector string, version uint64) bool {
	whole := wholePath(path)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range [...]what{{path: path, labels: labelSelector, fields: fieldSelector}, {path: path}, {path: whole}, {path: whole, filtered: true}} {
		for _, s := range h.sources[w] {
			if s.current(version) {
				return true
			}
		}
	}
	return false
}

// wholePath is the path of the resource in all namespaces.
func wholePath(path string) string {
	before, behind, ok := strings.Cut(path, "/namespaces/")
	if !ok {
		return path
	}
	if _, resource, ok := strings.Cut(behind, "/"); ok && !strings.Contains(resource, "/") {
		return before + "/" + resource
	}
	return path
}

// Flush ends every watch of the resource: its versions ran backwards, and none that is known here means anything.
func (h *Hub) Flush(group, resource string) {
	h.each(func(s *source) {
		if s.key.group == group && s.key.resource == resource {
			s.finish(ending{cause: endFlushed})
		}
	})
}

// Status is one shared watch as `seakeep gate relay` shows it.
type Status struct {
	Group         string `json:"group,omitempty"`
	Resource      string `json:"resource"`
	Path          string `json:"path"`
	LabelSelector string `json:"labelSelector,omitempty"`
	FieldSelector string `json:"fieldSelector,omitempty"`
	Accept        string `json:"accept,omitempty"`
	// Filtered: the whole resource is watched for subscribers that want parts of it; Objects are held for that.
	Filtered bool `json:"filtered,omitempty"`
	Objects  int  `json:"objects,omitempty"`
	// Readers follow the watch; CatchingUp of them have one of their own until they know of everything that was let go.
	Readers    int `json:"readers"`
	CatchingUp int `json:"catchingUp,omitempty"`
	// Live: the API server is being listened to.
	Live bool `json:"live"`
	// Events and Bytes are kept; a subscriber is served from a version ≥ Floor, and Head is the newest known.
	Events int       `json:"events"`
	Bytes  int       `json:"bytes"`
	Floor  uint64    `json:"floor"`
	Head   uint64    `json:"head"`
	Since  time.Time `json:"since"`
	// Received came from the API server, bookmarks included; Delivered was written to readers; Dropped readers were too slow.
	Received  int64 `json:"received"`
	Delivered int64 `json:"delivered"`
	Dropped   int64 `json:"dropped"`
	// Resumed is how often the upstream watch ended and was taken up again.
	Resumed int `json:"resumed,omitempty"`
}

// Status returns all shared watches, in no order.
func (h *Hub) Status() []Status {
	all := []Status{}
	h.each(func(s *source) { all = append(all, s.status()) })
	return all
}

// keyOf is what a request's subscriber shares.
func keyOf(r *http.Request, f *flow.Request) key {
	return key{
		what:   what{path: f.Path, labels: f.LabelSelector, fields: f.FieldSelector},
		accept: canonical(r.Header.Get("Accept")),
		group:  f.APIGroup, resource: f.Resource,
	}
}
