package keeper

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

// confirmEvery is how often the sidecar is written while the data does not change.
const confirmEvery = 30 * time.Second

// saving is what is known of the snapshot on disk.
type saving struct {
	dirty      bool
	generation uint64
	tried      time.Time
	saved      time.Time // when the data on disk was last confirmed there
	lastError  string
	written    chan struct{} // closed when the write under way has ended; nil when there is none
}

// Restore reads the snapshot on disk, if there is one, and serves it. It is called before Run; an error says why there
// is no restored data, and is no reason not to run.
func (k *Keeper) Restore() error {
	if k.o.Snapshot == nil {
		return nil
	}
	var draft *store.Draft
	loaded, err := k.o.Snapshot.Load(k.o.Cluster, func() func(store.Object) error {
		draft = k.o.Store.Fresh()
		return func(o store.Object) error {
			if k.kinds[o.Kind()].wanted {
				draft.Put(o)
			}
			return nil
		}
	})
	for _, refused := range loaded.Refused {
		k.m.refused.Inc()
		k.log.Error("Snapshot refused", "error", refused)
	}
	if errors.Is(err, snapshot.ErrNone) {
		k.log.Info("There is no snapshot yet", "path", k.o.Snapshot.Path())
		return nil
	}
	if err != nil {
		return err
	}
	origin := Origin{Cluster: loaded.Cluster, Confirmed: loaded.Confirmed, Modified: loaded.Modified}
	for kind := range store.Kind(store.KindCount) {
		origin.Versions[kind] = loaded.Kinds[kind.String()].Version
	}
	k.saving.generation, k.saving.saved = loaded.Generation, loaded.Confirmed
	k.handedOver(draft, "snapshot "+k.o.Snapshot.Path(), Disk, origin)
	for _, kind := range k.o.Kinds {
		_, has := loaded.Kinds[kind.String()]
		k.kinds[kind].lacking = !has
	}
	k.saving.dirty = false
	k.publishStatus()
	return nil
}

// save writes a snapshot if the data changed, and otherwise says now and then that it is still true. Only what is
// complete and beyond doubt is written: it is what a restart will believe.
func (k *Keeper) save(ctx context.Context, now time.Time) {
	s := &k.saving
	if k.o.Snapshot == nil || s.written != nil || !k.savable(now) {
		return
	}
	wait := confirmEvery
	if s.dirty {
		wait = k.o.SaveAfter
	}
	if now.Sub(s.tried) < wait {
		return
	}
	write := k.writer(now)
	s.written = make(chan struct{})
	written := s.written
	go func() {
		result := write()
		close(written)
		k.call(ctx, result)
	}()
}

func (k *Keeper) savable(now time.Time) bool {
	state, _, _ := k.judge(now)
	return state == Live && !k.guard.Active(now) && !slices.ContainsFunc(k.o.Kinds, func(kind store.Kind) bool {
		return k.kinds[kind].listing != nil
	})
}

// writer takes what is to be written now, which costs a pointer for each object, and returns what writes it, on any
// goroutine; that returns what notes the outcome, on the keeper's.
func (k *Keeper) writer(now time.Time) func() func() {
	s := &k.saving
	_, _, confirmed := k.judge(now)
	meta := snapshot.Meta{
		Cluster: k.cluster, Generation: s.generation, Writer: k.o.Version, Kinds: map[string]snapshot.KindMeta{},
		Confirmed: confirmed, Source: k.source,
	}
	for zone := range meta.Modified {
		meta.Modified[zone] = k.o.Store.Modified(store.Zone(zone))
	}
	for _, kind := range k.o.Kinds {
		meta.Kinds[kind.String()] = snapshot.KindMeta{Version: k.kinds[kind].version}
	}
	s.tried = now
	if !s.dirty {
		return func() func() {
			err := k.o.Snapshot.Confirm(meta)
			return func() { k.wrote("confirm", meta, err) }
		}
	}
	s.dirty = false
	meta.Generation++
	var objects []store.Object
	for _, kind := range k.o.Kinds {
		objects = slices.AppendSeq(slices.Grow(objects, k.o.Store.Count(kind)), k.o.Store.View().All(kind))
	}
	return func() func() {
		err := k.o.Snapshot.Save(meta, slices.Values(objects))
		return func() { k.wrote("save", meta, err) }
	}
}

func (k *Keeper) wrote(what string, meta snapshot.Meta, err error) {
	s := &k.saving
	s.written = nil
	if err == nil {
		s.generation, s.saved, s.lastError = meta.Generation, meta.Confirmed, ""
		k.m.writes.WithLabelValues(what, "ok").Inc()
		return
	}
	if what == "save" {
		s.dirty = true
		s.generation = meta.Generation // its file may be there after all
	}
	k.m.writes.WithLabelValues(what, "error").Inc()
	if text := err.Error(); text != s.lastError {
		s.lastError = text
		k.log.Error("Writing the snapshot failed; answers do not depend on it, a restart does", "error", err)
	}
}

// lastSave writes what changed since the last snapshot, at shutdown.
func (k *Keeper) lastSave(savable bool) {
	if k.saving.written != nil {
		<-k.saving.written
		// Its outcome is lost with the loop; writing again costs less than to be wrong about it.
		k.saving.dirty, k.saving.generation = true, k.saving.generation+1
	}
	if savable && k.o.Snapshot != nil {
		k.writer(time.Now())()()
	}
}
