package keeper

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// Back-off of a kind's requests to its source: as client-go's reflector, whose figures API servers are used to.
const (
	firstBackoff = 800 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// tooNewFor is how long a source may say that a version is newer than it: a lagging watch cache catches up in
	// moments, a database restored from a backup never.
	tooNewFor = 15 * time.Second
	// absentEvery is how often a kind that a source does not have is asked for again.
	absentEvery = 5 * time.Minute
)

// session is one source being followed: a goroutine for each kind.
type session struct {
	k      *Keeper
	source Source
	// turn lets one kind list at a time: each list costs the source and us memory.
	turn chan struct{}

	mu sync.Mutex
	// listAt is when lists after a 410 may begin, one random moment for all kinds.
	listAt time.Time
	// healthy is when the source last answered anything.
	healthy time.Time
}

// follow runs until ctx ends.
func (s *session) follow(ctx context.Context) {
	var feeds sync.WaitGroup
	defer feeds.Wait()
	for _, kind := range s.k.o.Kinds {
		feeds.Go(func() { s.feed(ctx, kind) })
	}
}

// feed lists and watches a kind.
func (s *session) feed(ctx context.Context, kind store.Kind) {
	var version string
	if s.k.ask(ctx, func() { version = s.k.kinds[kind].version }) != nil {
		return
	}
	var tooNew time.Time
	wait := time.Duration(0)
	for ctx.Err() == nil {
		began := time.Now()
		var err error
		if version == "" {
			version, err = s.list(ctx, kind)
		} else {
			version, err = s.watch(ctx, kind, version)
		}
		if err == nil || errors.Is(err, ErrGone) || errors.Is(err, ErrNoKind) || errors.Is(err, ErrTooNew) {
			s.answered()
		}
		if !errors.Is(err, ErrTooNew) {
			tooNew = time.Time{}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && time.Since(began) > time.Second:
			wait = 0
			continue
		case errors.Is(err, ErrGone):
			s.k.m.gone.WithLabelValues(kind.String()).Inc()
			version, wait = "", 0
			s.spread()
			continue
		case errors.Is(err, ErrNoKind):
			s.k.call(ctx, func() { s.k.absent(kind) })
			version, wait = "", 0
			pause(ctx, absentEvery)
			continue
		case errors.Is(err, ErrTooNew) && tooNew.IsZero():
			tooNew, wait = began, 0
		case errors.Is(err, ErrTooNew) && time.Since(tooNew) < tooNewFor:
			wait = 0
		case errors.Is(err, ErrTooNew):
			s.k.log.Warn("Source is behind what it said before, as after a restore of its database; listing again",
				"source", s.source.Name(), "kind", kind, "version", version)
			version, tooNew, wait = "", time.Time{}, 0
			s.spread()
			continue
		}
		if err != nil {
			s.k.m.sourceErrors.WithLabelValues(string(s.source.Class())).Inc()
			s.k.log.Debug("Source failed", "source", s.source.Name(), "kind", kind, "error", err)
		}
		wait = min(max(2*wait, firstBackoff), maxBackoff)
		pause(ctx, wait/2+time.Duration(s.k.o.Random()*float64(wait)))
	}
}

// list reads the whole kind. A version comes back only when the list is in the store.
func (s *session) list(ctx context.Context, kind store.Kind) (string, error) {
	s.mu.Lock()
	at := s.listAt
	s.mu.Unlock()
	pause(ctx, time.Until(at))
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer spare()()
	s.k.m.lists.WithLabelValues(kind.String(), string(s.source.Class())).Inc()
	if !s.k.call(ctx, func() { s.k.listBegin(kind) }) {
		return "", ctx.Err()
	}
	version, err := s.source.List(ctx, kind, func(o store.Object) error {
		s.answered()
		if !s.k.call(ctx, func() { s.k.listObject(o) }) {
			return ctx.Err()
		}
		return nil
	})
	if err != nil {
		s.k.call(ctx, func() { s.k.listAbort(kind) })
		return "", err
	}
	if s.k.ask(ctx, func() { s.k.listEnd(kind, version) }) != nil {
		return "", ctx.Err()
	}
	return version, nil
}

// watch follows the kind from a version and returns the last one it was told.
func (s *session) watch(ctx context.Context, kind store.Kind, version string) (string, error) {
	s.k.m.watches.WithLabelValues(kind.String(), string(s.source.Class())).Inc()
	defer s.k.call(ctx, func() { s.k.watchEnded(kind) })
	err := s.source.Watch(ctx, kind, version,
		func() {
			s.answered()
			s.k.call(ctx, func() { s.k.watchOpened(kind) })
		},
		func(e Event) error {
			s.answered()
			if !s.k.call(ctx, func() { s.k.event(kind, e) }) {
				return ctx.Err()
			}
			if e.Version != "" {
				version = e.Version
			}
			return nil
		})
	return version, err
}

// spread chooses when this instance lists again after the API server has forgotten the versions: every instance was
// told the same at the same moment. A relay is there to be asked.
func (s *session) spread() {
	if s.source.Class() != API {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.listAt.Before(now) {
		s.listAt = now.Add(time.Duration(s.k.o.Random() * float64(s.k.o.RelistSpread)))
	}
}

func (s *session) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healthy = time.Now()
}

func (s *session) silentFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(later(s.healthy, s.listAt)) // who waits for its turn to list is not ignored by the source
}

// watchOpened: the source goes on from the version we have, so what we have is complete.
func (k *Keeper) watchOpened(kind store.Kind) {
	s := &k.kinds[kind]
	s.connected, s.confirmed, s.absent = true, k.confirmedBy(kind), false
	k.completed(kind)
}

// confirmedBy is when what the source just said was known to be current: now, or as long ago as the source says itself.
func (k *Keeper) confirmedBy(kind store.Kind) time.Time {
	if aged, ok := k.following.(Aged); ok {
		return time.Now().Add(-aged.Age(kind))
	}
	return time.Now()
}

func (k *Keeper) watchEnded(kind store.Kind) {
	s := &k.kinds[kind]
	if s.connected {
		s.connected, s.disconnected = false, time.Now()
	}
}

func (k *Keeper) event(kind store.Kind, e Event) {
	s := &k.kinds[kind]
	s.confirmed = k.confirmedBy(kind)
	k.m.events.WithLabelValues(kind.String()).Inc()
	switch e.Type {
	case Put:
		k.put(e.Object)
	case Delete:
		k.delete(kind, e.Key)
	case Bookmark:
	}
	if e.Version != "" {
		s.version = e.Version
		s.highest = max(s.highest, number(e.Version))
	}
}

// absent: the source does not have the kind, so there is nothing of it. A CRD that was removed took its objects along.
func (k *Keeper) absent(kind store.Kind) {
	s := &k.kinds[kind]
	s.absent, s.version = true, ""
	k.listBegin(kind)
	k.listEnd(kind, "")
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
