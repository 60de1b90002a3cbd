package relay

import (
	"context"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

// await waits until a version is there: of any kind, because versions count together.
func (r *Relay) await(ctx context.Context, h *history, version uint64) error {
	if _, _, err := h.get(store.Key{}); err != nil {
		return err
	}
	if version <= r.newest() || r.reached(ctx, version) {
		return nil
	}
	limit := time.NewTimer(waitFor)
	defer limit.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for version > r.newest() {
		select {
		case <-limit.C:
			return tooLarge(version, r.newest())
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// catchUp waits a moment for the kind itself to come to a version that its source has reached. In a quiet cluster nothing
// tells that it has; the list then says the version it is really of, and a watch from there misses nothing.
func (h *history) catchUp(ctx context.Context, version uint64) {
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	for {
		h.mu.Lock()
		reached, changed := h.version >= version, h.changed
		h.mu.Unlock()
		if reached {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// get serves one object. Reading kube-system at a version is how clients ask whether we have come as far.
func (r *Relay) get(w *slowWriter, q *http.Request, t target, query *query, form encoding) error {
	h := r.kinds[t.kind]
	if query.hasVersion {
		if err := r.await(q.Context(), h, query.version); err != nil {
			return err
		}
	}
	o, _, err := h.get(store.Key{Namespace: t.namespace, Name: t.name})
	if err != nil {
		return err
	}
	if o == nil || !query.selects(o) {
		return apierrors.NewNotFound(schema.GroupResource{Group: resources[t.kind].group, Resource: t.kind.String()}, t.name)
	}
	body, err := encode(form, resources[t.kind].typeMeta(), render(o, o.ResourceVersion(), r.data.Status().Cluster))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", form.contentType())
	_, _ = w.Write(body)
	return nil
}

// list serves a page, or all of it.
func (r *Relay) list(w *slowWriter, q *http.Request, t target, query *query, form encoding) error {
	h := r.kinds[t.kind]
	var page snapshotOf
	var err error
	from := 0
	switch {
	case query.token != nil:
		if query.token.ID != r.id {
			return errExpired
		}
		if page, err = h.snapshotAt(query.token.Epoch, query.token.Changes); err != nil {
			return err
		}
		page.version = query.token.Version
		from = sort.Search(len(page.objects), func(i int) bool { return compareKeys(page.objects[i].Key(), query.token.After) > 0 })
	case query.hasVersion:
		if err := r.await(q.Context(), h, query.version); err != nil {
			return err
		}
		h.catchUp(q.Context(), query.version)
		fallthrough
	default:
		if page, err = h.snapshot(); err != nil {
			return err
		}
		if query.match == metav1.ResourceVersionMatchExact && query.version != page.version {
			return errExpired // no version but the newest can be listed
		}
	}
	out := &listWriter{resource: &resources[t.kind], meta: metav1.ListMeta{ResourceVersion: strconv.FormatUint(page.version, 10)}}
	cluster := r.data.Status().Cluster
	out.render = func(o store.Object) object { return render(o, o.ResourceVersion(), cluster) }
	for _, o := range page.objects[from:] {
		if !query.selects(o) {
			continue
		}
		if query.limit > 0 && len(out.objects) == query.limit {
			next := token{ID: r.id, Epoch: page.epoch, Changes: page.changes, Version: page.version, After: out.objects[query.limit-1].Key()}
			out.meta.Continue = next.String()
			break
		}
		out.objects = append(out.objects, o)
	}
	w.Header().Set("Content-Type", form.contentType())
	if err := out.write(form, w); err != nil {
		r.o.Log.Debug("Listing ended", "kind", t.kind, "error", err)
		panic(http.ErrAbortHandler) // so that nobody takes the part for the whole
	}
	return nil
}

// serveSnapshot hands out all the data, as it would be written to disk, for a peer that has nothing better. That is
// the keeper's view, with what its guard holds: while there is any doubt it comes without versions to go on from.
func (r *Relay) serveSnapshot(w http.ResponseWriter) {
	status := r.data.Status()
	if !status.Ready() {
		http.Error(w, "there is no data yet", http.StatusServiceUnavailable)
		return
	}
	meta := snapshot.Meta{Cluster: status.Cluster, Writer: r.o.Version, Kinds: map[string]snapshot.KindMeta{}, Confirmed: status.Confirmed, Source: status.Source}
	for zone := range meta.Modified {
		meta.Modified[zone] = r.data.Store().Modified(store.Zone(zone))
	}
	var objects []store.Object
	view := r.data.Store().View()
	for _, kind := range r.o.Kinds {
		if slices.Contains(status.Incomplete, kind.String()) {
			continue
		}
		k := snapshot.KindMeta{Version: status.Versions[kind.String()]}
		if status.State == keeper.Guarded {
			k.Version = ""
		}
		meta.Kinds[kind.String()] = k
		objects = slices.AppendSeq(objects, view.All(kind))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := snapshot.Encode(w, meta, slices.Values(objects), nil); err != nil {
		r.o.Log.Debug("Handing out a snapshot ended", "error", err)
		panic(http.ErrAbortHandler)
	}
}
