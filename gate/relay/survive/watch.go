package survive

import (
	"cmp"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/seakeep/seakeep/gate/flow"
)

const (
	// bookmarkEvery is how often a held watch says that it is still there, as the API server does.
	bookmarkEvery = time.Minute
	// shortestWatch is how long a watch must last: reflectors take a shorter one without events for a failure, and list.
	shortestWatch = 1200 * time.Millisecond
	// freshWithin is how long a held watch waits, when an API server is back, for what changed meanwhile; reviewWithin is
	// for asking whether its client may still be told.
	freshWithin, reviewWithin = 15 * time.Second, 5 * time.Second
)

// How a held watch ended: the label values of "how".
const (
	endedCaughtUp   = "caught_up"
	endedAsTheyWere = "as_they_were"
)

// held counts the watches that are held.
type held struct{ n atomic.Int64 }

func (h *held) count() int { return int(h.n.Load()) }

// holding is one held watch.
type holding struct {
	store *Store
	w     http.ResponseWriter
	r     *http.Request
	f     *flow.Request
	kept  *kept
	q     *read
	kind  kind
	// version is what the client has; state is that state, nil when it is not known here.
	version uint64
	state   *snapshot
	events  *eventWriter
	began   time.Time
}

// hold answers a watch: with the objects that are known when it asks for them, and then with patience, until an API server
// is back, the client leaves, or its time is up. The stream ends cleanly, and its client goes on with a watch from the
// version it has.
func (s *Store) hold(w http.ResponseWriter, r *http.Request, f *flow.Request, k *kept, state *snapshot, q *read) {
	s.metrics.watches.Set(float64(s.held.n.Add(1)))
	defer func() { s.metrics.watches.Set(float64(s.held.n.Add(-1))) }()
	h := &holding{store: s, w: w, r: r, f: f, kept: k, q: q, kind: state.kind, version: q.from, began: time.Now()}
	if q.from == 0 {
		h.version, h.state = state.version, state
	} else if state.changed <= q.from && q.from <= state.version {
		h.version, h.state = q.from, state
	}
	contentType := q.media.contentType()
	if q.media.protobuf {
		contentType += ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	h.events = newEventWriter(w, &state.kind, q)
	if q.from == 0 && h.initial(state) != nil {
		return
	}
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	h.wait()
}

// initial sends what is known, and the bookmark that says so (KEP-3157).
func (h *holding) initial(state *snapshot) error {
	for _, o := range state.objects {
		if !h.q.matches(o) {
			continue
		}
		if err := h.events.send(watch.Added, o, 0); err != nil {
			return err
		}
	}
	if !h.q.bookmarks {
		return nil
	}
	return h.events.bookmark(state.version, true)
}

func (h *holding) wait() {
	timeout := h.q.timeout
	if timeout == 0 {
		timeout = 30*time.Minute + rand.N(30*time.Minute) // the API server's own --min-request-timeout
	}
	timeUp := time.NewTimer(max(timeout, shortestWatch))
	defer timeUp.Stop()
	bookmark := time.NewTicker(bookmarkEvery*3/4 + rand.N(bookmarkEvery/2))
	defer bookmark.Stop()
	over := h.store.outage.over()
	for over != nil {
		select {
		case <-h.r.Context().Done():
			return
		case <-timeUp.C:
			return
		case <-bookmark.C:
			if h.q.bookmarks && h.state != nil {
				if h.events.bookmark(h.version, false) != nil || http.NewResponseController(h.w).Flush() != nil {
					return
				}
			}
		case <-over:
			// All at once would be the storm that was to be avoided.
			if !h.pause(max(rand.N(h.store.spread), shortestWatch-time.Since(h.began))) {
				return
			}
			over = h.store.outage.over() // it may have gone again
		}
	}
	h.pause(shortestWatch - time.Since(h.began))
	how := endedAsTheyWere
	if h.catchUp() {
		how = endedCaughtUp
	}
	h.store.metrics.told.WithLabelValues(how).Inc()
}

// pause returns false when the client leaves meanwhile.
func (h *holding) pause(d time.Duration) bool {
	select {
	case <-h.r.Context().Done():
		return false
	case <-time.After(d):
		return true
	}
}

// catchUp tells the client what changed since the state it has, so that it goes on from a version an API server knows,
// provided that the API server, asked now, still lets it. It returns false when the client goes on from where it was.
func (h *holding) catchUp() bool {
	if h.state == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(h.r.Context(), reviewWithin)
	defer cancel()
	who, err := h.store.reviewer.Identify(ctx, h.r, h.f)
	if err != nil {
		return false
	}
	if may, err := h.store.reviewer.Allowed(ctx, who, h.f); err != nil || !may {
		return false
	}
	fresh := h.fresh()
	if fresh == nil || fresh.version < h.state.version || fresh.kind != h.state.kind {
		return false
	}
	for _, e := range changes(h.state, fresh, h.q.matches) {
		if h.events.send(e.event, e.object, e.version) != nil {
			return false
		}
	}
	if h.q.bookmarks && h.events.bookmark(fresh.version, false) != nil {
		return false
	}
	return http.NewResponseController(h.w).Flush() == nil
}

// fresh is the state after the outage, nil when it does not come in time.
func (h *holding) fresh() *snapshot {
	h.store.outage.mu.Lock()
	ended := h.store.outage.ended
	h.store.outage.mu.Unlock()
	deadline := time.After(freshWithin)
	for {
		if state := h.kept.snapshot(); state != nil && state.confirmed.After(ended) {
			return state
		}
		select {
		case <-h.r.Context().Done():
			return nil
		case <-deadline:
			return nil
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
	}
}

// change is an event between two states.
type change struct {
	event  watch.EventType
	object *object
	// version is the event's, when it is not the object's own.
	version uint64
}

// changes are what happened between two states, for whoever selects by matches, in the order of their versions. Of what is
// gone it is not known when; so that comes last.
func changes(from, to *snapshot, matches func(*object) bool) []change {
	var all []change
	i, j := 0, 0
	for i < len(from.objects) || j < len(to.objects) {
		var before, after *object
		order := 0
		switch {
		case i == len(from.objects):
			order = 1
		case j == len(to.objects):
			order = -1
		default:
			order = byKey(from.objects[i], to.objects[j])
		}
		if order <= 0 {
			before = from.objects[i]
			i++
		}
		if order >= 0 {
			after = to.objects[j]
			j++
		}
		had := before != nil && matches(before)
		has := after != nil && matches(after)
		switch {
		case had && has && before.version != after.version:
			all = append(all, change{event: watch.Modified, object: after})
		case has && !had:
			all = append(all, change{event: watch.Added, object: after})
		case had && !has:
			version := to.version
			if after != nil {
				version = after.version
			}
			all = append(all, change{event: watch.Deleted, object: before, version: version})
		}
	}
	slices.SortStableFunc(all, func(a, b change) int {
		return cmp.Compare(cmp.Or(a.version, a.object.version), cmp.Or(b.version, b.object.version))
	})
	return all
}

// eventWriter writes the frames of a watch.
type eventWriter struct {
	kind    *kind
	media   media
	frames  io.Writer
	encoder runtime.Encoder
}

func newEventWriter(w io.Writer, k *kind, q *read) *eventWriter {
	stream := q.format.StreamSerializer
	return &eventWriter{kind: k, media: q.media, frames: stream.Framer.NewFrameWriter(w), encoder: stream.Serializer}
}

func (e *eventWriter) event(event watch.EventType, object runtime.Object) error {
	raw, err := single(e.kind, e.media, object)
	if err != nil {
		return err
	}
	return e.encoder.Encode(&metav1.WatchEvent{Type: string(event), Object: runtime.RawExtension{Raw: raw}}, e.frames)
}

func (e *eventWriter) send(event watch.EventType, o *object, version uint64) error {
	decoded, err := o.decode(e.kind)
	if err != nil {
		return err
	}
	if version != 0 {
		accessor, err := meta.Accessor(decoded)
		if err != nil {
			return err
		}
		accessor.SetResourceVersion(strconv.FormatUint(version, 10))
	}
	return e.event(event, decoded)
}

// bookmark says that nothing else happened up to the version; the one behind the initial events says so.
func (e *eventWriter) bookmark(version uint64, initialEventsEnd bool) error {
	object, err := e.kind.empty()
	if err != nil {
		return err
	}
	object.GetObjectKind().SetGroupVersionKind(e.kind.gvk())
	accessor, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	accessor.SetResourceVersion(strconv.FormatUint(version, 10))
	if initialEventsEnd {
		accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return e.event(watch.Bookmark, object)
}
