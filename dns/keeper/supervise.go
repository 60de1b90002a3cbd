package keeper

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

const (
	// probeFor is how long a source may take to say which cluster it is.
	probeFor = 5 * time.Second
	// retryEvery is the pause between rounds over all the sources while none answers.
	retryEvery = 2 * time.Second
	// fetchEvery is how often peers are asked while no source answers.
	fetchEvery = 30 * time.Second
	// fresher is how much newer a peer's data must be to be taken: a swap is not worth a second.
	fresher = 30 * time.Second
)

// cooling keeps sources that answer and cannot be followed (their watches fail) from being chosen again and again
// before others that can.
type cooling struct {
	until map[int]time.Time
	time  map[int]time.Duration
}

// failed puts a source off, each time for longer.
func (c *cooling) failed(i int, first time.Duration) {
	c.time[i] = min(max(2*c.time[i], first), 16*first)
	c.until[i] = time.Now().Add(c.time[i])
}

func (c *cooling) worked(i int) { delete(c.time, i) }

func (c *cooling) isOff(i int) bool { return time.Now().Before(c.until[i]) }

// supervise follows the best source that answers, until ctx ends.
func (k *Keeper) supervise(ctx context.Context) {
	var fetched time.Time
	off := &cooling{map[int]time.Time{}, map[int]time.Duration{}}
	all := len(k.o.Sources)
	for ctx.Err() == nil {
		i, ok := k.firstAnswering(ctx, all, off)
		if !ok { // better one that failed than none
			i, ok = k.firstAnswering(ctx, all, &cooling{})
		}
		if ok {
			k.followUntilWorse(ctx, i, off)
			continue
		}
		if fetched.IsZero() || time.Since(fetched) >= fetchEvery {
			fetched = time.Now()
			k.fetch(ctx)
		}
		pause(ctx, retryEvery)
	}
}

// firstAnswering is the first of the n most preferred sources that is not put off, answers, and is of our cluster.
func (k *Keeper) firstAnswering(ctx context.Context, n int, off *cooling) (int, bool) {
	for i, source := range k.o.Sources[:n] {
		if off.isOff(i) {
			continue
		}
		if err := k.probe(ctx, source); err != nil {
			if ctx.Err() != nil {
				return 0, false
			}
			k.m.sourceErrors.WithLabelValues(string(source.Class())).Inc()
			k.log.Debug("Source does not answer", "source", source.Name(), "error", err)
			continue
		}
		return i, true
	}
	return 0, false
}

// probe asks a source which cluster it is. Ours is the one that is configured; else the snapshot's; else that of the first
// source that answers. An API server outranks a snapshot: it proves with its certificate that it is the one which
// this server was told to follow, and a snapshot may have come with a cloned or swapped disk.
func (k *Keeper) probe(ctx context.Context, source Source) error {
	probing, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	uid, err := source.Cluster(probing)
	if err != nil {
		return err
	}
	var ours string
	if err := k.ask(ctx, func() {
		switch {
		case k.cluster == "":
			k.cluster = uid
		case uid != k.cluster && source.Class() == API && k.o.Cluster == "" && k.following == nil && k.class == Disk:
			k.disown(source, uid)
		}
		ours = k.cluster
	}); err != nil {
		return err
	}
	if uid != ours {
		k.m.foreign.WithLabelValues(string(source.Class())).Inc()
		k.log.Error("Source is another cluster's and is not used",
			"source", source.Name(), "cluster", uid, "ours", ours)
		return fmt.Errorf("it is cluster %s, not %s", uid, ours)
	}
	return nil
}

// followUntilWorse follows a source until it has been silent for SwitchAfter, or a better one answers.
func (k *Keeper) followUntilWorse(ctx context.Context, i int, off *cooling) {
	source := k.o.Sources[i]
	k.log.Info("Following source", "source", source.Name(), "class", source.Class())
	if k.ask(ctx, func() { k.followed(source) }) != nil {
		return
	}
	session := &session{k: k, source: source, turn: make(chan struct{}, 1), healthy: time.Now()}
	if k.o.Tap != nil {
		session.source = k.o.Tap(source)
	}
	inner, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { session.follow(inner) })
	k.waitUntilWorse(inner, session, i, off)
	stop()
	following.Wait()
	k.ask(ctx, k.unfollowed)
}

func (k *Keeper) waitUntilWorse(ctx context.Context, s *session, i int, off *cooling) {
	preferred := time.Now()
	for ctx.Err() == nil {
		pause(ctx, time.Second)
		var open bool
		if k.ask(ctx, func() { open = k.anyOpen() }) != nil {
			return
		}
		if open {
			off.worked(i)
		} else if s.silentFor() > k.o.SwitchAfter {
			off.failed(i, k.o.PreferAfter)
			k.log.Warn("Source is silent", "source", s.source.Name(), "for", s.silentFor().Round(time.Second))
			return
		}
		if i > 0 && time.Since(preferred) >= k.o.PreferAfter {
			preferred = time.Now()
			if _, ok := k.firstAnswering(ctx, i, off); ok {
				return
			}
		}
	}
}

func (k *Keeper) anyOpen() bool {
	for _, kind := range k.o.Kinds {
		if k.kinds[kind].connected {
			return true
		}
	}
	return false
}

// followed begins with a source. Until data that is followed has been complete once, the source writes to a draft.
func (k *Keeper) followed(source Source) {
	k.following = source
	if k.draft != nil || !k.hasData() || k.neverFollowed() {
		if k.hasData() {
			k.draft = k.o.Store.Fork()
		} else {
			k.draft = k.o.Store.Fresh()
		}
		k.recount()
		for _, kind := range k.o.Kinds {
			k.kinds[kind].complete = false
		}
	} else {
		k.source, k.class = source.Name(), source.Class()
	}
}

// unfollowed ends with a source. A draft that did not get complete is thrown away: half of one source and half of
// another was never true.
func (k *Keeper) unfollowed() {
	k.following = nil
	for _, kind := range k.o.Kinds {
		k.watchEnded(kind)
		k.kinds[kind].listing = nil
	}
	if k.draft == nil {
		return
	}
	k.draft = nil
	k.resetGuard()
	for _, kind := range k.o.Kinds {
		s := &k.kinds[kind]
		s.version, s.highest = s.restored, number(s.restored)
	}
	k.recount()
}

// fetch takes a whole data set from the first fetcher whose data is worth it.
func (k *Keeper) fetch(ctx context.Context) {
	for _, fetcher := range k.o.Fetchers {
		// A static file is for when there is nothing at all.
		var useful bool
		if k.ask(ctx, func() { useful = fetcher.Class() == Peer || !k.hasData() }) != nil {
			return
		}
		if !useful {
			continue
		}
		taken, err := k.fetchFrom(ctx, fetcher)
		if err != nil && ctx.Err() == nil {
			k.m.sourceErrors.WithLabelValues(string(fetcher.Class())).Inc()
			k.log.Warn("Fetching data failed", "source", fetcher.Name(), "error", err)
		}
		if taken {
			return
		}
	}
}

func (k *Keeper) fetchFrom(ctx context.Context, fetcher Fetcher) (taken bool, err error) {
	var objects []store.Object
	origin, err := fetcher.Fetch(ctx, func(o store.Object) error {
		objects = append(objects, o)
		return nil
	})
	if err != nil {
		return false, err
	}
	var refused error
	err = k.ask(ctx, func() {
		if origin.Cluster != "" && k.cluster != "" && origin.Cluster != k.cluster {
			k.m.foreign.WithLabelValues(string(fetcher.Class())).Inc()
			refused = fmt.Errorf("it is cluster %s, not %s", origin.Cluster, k.cluster)
			return
		}
		if k.hasData() && origin.Confirmed.Before(k.latest().Add(fresher)) {
			return
		}
		draft := k.o.Store.Fresh()
		for _, o := range objects {
			draft.Put(o)
		}
		k.handedOver(draft, fetcher.Name(), fetcher.Class(), origin)
		taken = true
	})
	if err == nil {
		err = refused
	}
	return taken, err
}

// latest is when the data served was last confirmed.
func (k *Keeper) latest() time.Time {
	_, _, confirmed := k.judge(time.Now())
	return confirmed
}

// handedOver publishes a whole data set that nobody followed.
func (k *Keeper) handedOver(draft *store.Draft, name string, class Class, origin Origin) {
	k.o.Store.Publish(draft)
	for zone, unix := range origin.Modified {
		k.o.Store.SetModified(store.Zone(zone), unix)
	}
	k.source, k.class, k.confirmed = name, class, origin.Confirmed
	if k.cluster == "" {
		k.cluster = origin.Cluster
	}
	for _, kind := range k.o.Kinds {
		s := &k.kinds[kind]
		s.restored = origin.Versions[kind]
		s.version, s.highest = s.restored, number(s.restored)
		s.complete, s.connected = false, false
		s.lacking = class != Static && s.restored == "" && k.o.Store.Count(kind) == 0
	}
	k.draft = nil
	k.resetGuard()
	k.recount()
	k.log.Info("Took whole data", "source", name, "class", class, "confirmed", origin.Confirmed,
		"services", k.o.Store.Count(store.Services), "endpointSlices", k.o.Store.Count(store.EndpointSlices))
	k.publishStatus()
}

// disown throws away what was restored, when the API server says that it is another cluster's. Until there is a list, no data
// is better than theirs.
func (k *Keeper) disown(source Source, uid string) {
	k.m.refused.Inc()
	k.log.Error("The snapshot is another cluster's and is thrown away", "snapshot", k.cluster, "cluster", uid, "source", source.Name())
	k.o.Store.Publish(k.o.Store.Fresh())
	k.cluster, k.source, k.class, k.confirmed = uid, "", "", time.Time{}
	for _, kind := range k.o.Kinds {
		s := &k.kinds[kind]
		s.version, s.highest, s.restored, s.complete, s.lacking = "", 0, "", false, false
	}
	k.resetGuard()
	k.recount()
	k.publishStatus()
}

func (k *Keeper) resetGuard() {
	k.guard.Release(func(guard.Hold) bool { return true })
	clear(k.missing)
	clear(k.recent)
}
