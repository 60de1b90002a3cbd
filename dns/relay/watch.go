package relay

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/seakeep/seakeep/dns/store"
)

// Ends of watches: as API servers choose them, random so that they do not come together.
const (
	watchAtLeast = 30 * time.Minute
	watchAtMost  = time.Hour
	// batch is how many events are taken from the ring at a time.
	batch = 64
)

// watcher is one watch being served.
type watcher struct {
	relay     *Relay
	w         *slowWriter
	kind      store.Kind
	query     *query
	form      encoding
	cluster   string
	at        cursor
	version   uint64    // the last one told
	confirmed time.Time // when the data was last confirmed, as told
}

func (r *Relay) watch(w *slowWriter, q *http.Request, t target, query *query, form encoding) error {
	h := r.kinds[t.kind]
	x := &watcher{relay: r, w: w, kind: t.kind, query: query, form: form, cluster: r.data.Status().Cluster}
	if query.hasVersion {
		if err := r.await(q.Context(), h, query.version); err != nil {
			return err
		}
	}
	var initial snapshotOf
	var err error
	if query.hasVersion && !query.initialEvents {
		if x.at, err = h.since(query.version); err != nil {
			return err
		}
		x.version = query.version
	} else {
		if query.hasVersion {
			h.catchUp(q.Context(), query.version)
		}
		if initial, err = h.snapshot(); err != nil {
			return err
		}
		x.version = initial.version
		x.at = cursor{epoch: initial.epoch, next: initial.changes, after: x.version}
	}
	r.m.watches.WithLabelValues(t.kind.String()).Inc()
	defer r.m.watches.WithLabelValues(t.kind.String()).Dec()
	contentType := form.contentType()
	if form == asProtobuf {
		contentType += ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	if w.flush() != nil {
		return nil
	}
	if reason := x.run(q, h, initial); reason != "" {
		r.m.dropped.WithLabelValues(reason).Inc()
	}
	return nil
}

// run serves until the end, and says why where that was not the client's or the clock's.
func (x *watcher) run(q *http.Request, h *history, initial snapshotOf) (reason string) {
	lasts := x.query.timeout
	if lasts == 0 {
		lasts = watchAtLeast + rand.N(watchAtMost-watchAtLeast)
	}
	ends := time.NewTimer(min(lasts, watchAtMost))
	defer ends.Stop()
	bookmarks := time.NewTicker(x.relay.o.BookmarkEvery)
	defer bookmarks.Stop()
	for _, o := range initial.objects {
		if x.query.selects(o) && x.send(watch.Added, render(o, o.ResourceVersion(), x.cluster)) != nil {
			return dropSlow
		}
	}
	if x.query.initialEvents && x.query.bookmarks && x.bookmark(map[string]string{metav1.InitialEventsAnnotationKey: "true"}) != nil {
		return dropSlow
	}
	if x.w.flush() != nil {
		return dropSlow
	}
	x.confirmed = x.relay.data.Status().Confirmed
	for {
		changes, version, changed, err := h.next(&x.at, batch)
		if err != nil {
			_ = x.send(watch.Error, statusOf(expired()))
			_ = x.w.flush()
			return dropBehind
		}
		for i := range changes {
			if x.change(&changes[i]) != nil {
				return dropSlow
			}
		}
		if len(changes) > 0 {
			if x.w.flush() != nil {
				return dropSlow
			}
			continue
		}
		select {
		case <-changed:
		case <-bookmarks.C:
			if x.confirm(version) != nil {
				return dropSlow
			}
		case <-ends.C:
			return ""
		case <-x.relay.closing:
			return dropClosing
		case <-q.Context().Done():
			return ""
		}
	}
}

// change tells of one change, as far as the selectors see it.
func (x *watcher) change(e *entry) error {
	before := e.old != nil && x.query.selects(e.old)
	after := e.new != nil && x.query.selects(e.new)
	x.version = max(x.version, e.version)
	kind, o := watch.Modified, e.new
	switch {
	case !before && !after:
		return nil
	case !before:
		kind = watch.Added
	case !after:
		kind, o = watch.Deleted, e.old
	}
	f, err := x.relay.frames[x.kind].of(o, e.version, kind, x.form, func() ([]byte, error) {
		return frame(x.form, resources[x.kind].typeMeta(), kind, render(o, e.version, x.cluster))
	})
	if err != nil {
		return err
	}
	return x.write(f)
}

// confirm tells, where no event did, that the client is up to date, and how old what it has is. Nothing is told while
// our own source is silent: then the client's data gets older as ours does.
func (x *watcher) confirm(version uint64) error {
	confirmed := x.relay.data.Status().Confirmed
	if !x.query.bookmarks || version == 0 || version <= x.version && !confirmed.After(x.confirmed) {
		return nil
	}
	x.version, x.confirmed = max(x.version, version), confirmed
	if err := x.bookmark(nil); err != nil {
		return err
	}
	return x.w.flush()
}

func (x *watcher) bookmark(annotations map[string]string) error {
	o := resources[x.kind].empty()
	o.SetResourceVersion(strconv.FormatUint(x.version, 10))
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationAge] = strconv.FormatFloat(x.relay.age().Seconds(), 'f', 1, 64)
	o.SetAnnotations(annotations)
	f, err := frame(x.form, resources[x.kind].typeMeta(), watch.Bookmark, o)
	if err != nil {
		return err
	}
	return x.write(f)
}

func (x *watcher) send(kind watch.EventType, o any) error {
	var f []byte
	var err error
	switch o := o.(type) {
	case *metav1.Status:
		f, err = frame(x.form, metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, kind, o)
	case object:
		f, err = frame(x.form, resources[x.kind].typeMeta(), kind, o)
	}
	if err != nil {
		return err
	}
	return x.write(f)
}

func (x *watcher) write(f []byte) error {
	x.relay.m.events.Inc()
	_, err := x.w.Write(f)
	return err
}

// frames remembers the last events of a kind as bytes: all watchers that keep up are sent the same.
type frames struct {
	mu    sync.Mutex
	slots [64][encodings]framed
}

type framed struct {
	object  store.Object
	version uint64
	kind    watch.EventType
	bytes   []byte
}

func (f *frames) of(o store.Object, version uint64, kind watch.EventType, form encoding, make func() ([]byte, error)) ([]byte, error) {
	slot := &f.slots[version%uint64(len(f.slots))][form]
	f.mu.Lock()
	if slot.object == o && slot.version == version && slot.kind == kind {
		defer f.mu.Unlock()
		return slot.bytes, nil
	}
	f.mu.Unlock()
	b, err := make()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	*slot = framed{o, version, kind, b}
	return b, nil
}
