package keeper

import (
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// judge says what the data is worth now, and when all of it was last known to be current.
func (k *Keeper) judge(now time.Time) (state State, stale bool, confirmed time.Time) {
	if !k.hasData() {
		return Empty, false, time.Time{}
	}
	if k.draft != nil || k.neverFollowed() {
		return Restored, true, k.confirmed
	}
	confirmed = now
	for _, kind := range k.o.Kinds {
		s := &k.kinds[kind]
		if s.absent {
			continue // nothing that could change
		}
		if s.confirmed.Before(confirmed) {
			confirmed = s.confirmed
		}
		stale = stale || !s.connected && now.Sub(s.disconnected) > k.o.StaleAfter || now.Sub(s.confirmed) > k.o.SilentAfter
	}
	switch {
	case k.guard.Count() > 0:
		return Guarded, stale, confirmed
	case stale:
		return Stale, true, confirmed
	}
	return Live, false, confirmed
}

// hasData is true when complete data is served, from wherever.
func (k *Keeper) hasData() bool { return k.source != "" }

// neverFollowed is true while the data served was handed over whole and is not followed.
func (k *Keeper) neverFollowed() bool { return k.class != API && k.class != Relay }

func (k *Keeper) publishStatus() {
	now := time.Now()
	state, stale, confirmed := k.judge(now)
	if state != k.state {
		k.log.Info("State of the data changed", "from", k.state, "to", state, "source", k.source)
		k.state, k.since = state, now
	}
	status := Status{
		State: state, Stale: stale, Source: k.source, Class: k.class, Cluster: k.cluster, Confirmed: confirmed, Since: k.since,
		Held: k.guard.Size(), Counts: map[string]int{}, Versions: map[string]string{}, SnapshotSaved: k.saving.saved, SnapshotError: k.saving.lastError,
	}
	for _, kind := range k.o.Kinds {
		status.Counts[kind.String()] = k.o.Store.Count(kind)
		version := k.kinds[kind].version
		if k.draft != nil { // that one is the draft's
			version = k.kinds[kind].restored
		}
		if k.hasData() && version != "" {
			status.Versions[kind.String()] = version
		}
		if k.hasData() && k.kinds[kind].lacking {
			status.Incomplete = append(status.Incomplete, kind.String())
		}
	}
	k.status.Store(&status)
	k.m.observe(status, now)
}

// completed is called when a kind has become complete. With the last one, the draft is published.
func (k *Keeper) completed(kind store.Kind) {
	k.kinds[kind].complete = true
	if k.draft == nil {
		return
	}
	for _, kind := range k.o.Kinds {
		if !k.kinds[kind].complete {
			return
		}
	}
	k.o.Store.Publish(k.draft)
	for _, kind := range k.o.Kinds {
		k.kinds[kind].lacking = false
	}
	k.draft = nil
	k.source, k.class = k.following.Name(), k.following.Class()
	k.saving.dirty = true
	k.publishStatus()
}
