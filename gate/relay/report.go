package relay

import (
	"net/url"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/relay/watch"
)

// Status says what the relay is doing. Finish is called.
func (r *Relay) Status() Status {
	now := time.Now()
	s := Status{
		Taken: now, Since: r.since, Enabled: true,
		Memory:    MemoryStatus{Used: r.budget.Used(), Max: r.budget.Max()},
		Forwarded: map[string]int64{},
	}
	for _, why := range reasons {
		if n := r.metrics.forwards(why); n > 0 {
			s.Forwarded[string(why)] = n
		}
	}
	r.mu.Lock()
	s.Total = r.total
	for _, e := range r.entries {
		s.Keys = append(s.Keys, e.status(now))
	}
	r.mu.Unlock()
	for _, w := range r.hub.Status() {
		s.Watches = append(s.Watches, watchStatus(&w))
	}
	return s
}

func watchStatus(w *watch.Status) WatchStatus {
	query := url.Values{}
	for name, value := range map[string]string{"labelSelector": w.LabelSelector, "fieldSelector": w.FieldSelector} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return WatchStatus{
		Resource: schema.GroupResource{Group: w.Group, Resource: w.Resource}.String(),
		Path:     w.Path, Query: query.Encode(), MediaType: w.Accept, Filtered: w.Filtered, Subscribers: w.Readers, Events: w.Received, Delivered: w.Delivered, Dropped: w.Dropped,
		RingEvents: w.Events, RingBytes: int64(w.Bytes), Oldest: strconv.FormatUint(w.Floor, 10), Newest: strconv.FormatUint(w.Head, 10),
	}
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
