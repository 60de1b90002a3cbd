package relay

import (
	"strconv"
	"time"
)

// Status says what the relay is doing. Finish is called.
func (r *Relay) Status() Status {
	now := time.Now()
	s := Status{
		Taken: now, Since: r.since, Enabled: true,
		Memory:    MemoryStatus{Used: r.budget.Used(), Max: r.budget.Max()},
		Forwarded: map[string]int64{},
	}
	for why, n := range r.forwards {
		if n := n.Load(); n > 0 {
			s.Forwarded[string(why)] = n
		}
	}
	r.mu.Lock()
	s.Total = r.total
	for _, e := range r.entries {
		s.Keys = append(s.Keys, e.status(now))
	}
	r.mu.Unlock()
	return s
}

func (e *entry) status(now time.Time) KeyStatus {
	k := KeyStatus{
		Resource: e.resource.String(), Path: e.key.path, Query: e.key.query, MediaType: e.key.accept, Encoding: "identity",
		WatchList: e.key.initial, Readers: e.readers, Waiting: e.commit.Waiting(), Sharing: e.sharing,
	}
	k.Readers -= k.Waiting
	if e.key.gzip {
		k.Encoding = "gzip"
	}
	if b := e.commit.Newest(); b != nil {
		age := now.Sub(b.Started).Seconds()
		k.AgeSeconds, k.Version = &age, strconv.FormatUint(b.Version(), 10)
	}
	return k
}
