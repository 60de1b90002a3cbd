package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/dns/store"
)

// service is an object whose data is its target.
func service(name, target string, version uint64) *store.Service {
	return &store.Service{Namespace: "a", Name: name, Type: store.ExternalName, ExternalName: target, Version: version}
}

// client is a watcher's view of a history: what it has put together from a list and the changes since.
type client struct {
	objects map[string]string
	version uint64
	at      cursor
}

func lists(t *testing.T, h *history) *client {
	t.Helper()
	s, err := h.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	c := &client{objects: map[string]string{}, version: s.version}
	for _, o := range s.objects {
		c.objects[o.Key().Name] = o.(*store.Service).ExternalName
	}
	if c.at, err = h.since(c.version); err != nil {
		t.Fatal(err)
	}
	return c
}

// read takes at most limit changes.
func (c *client) read(h *history, limit int) error {
	changes, version, _, err := h.next(&c.at, limit)
	if err != nil {
		return err
	}
	for _, e := range changes {
		if e.new == nil {
			delete(c.objects, e.key.Name)
		} else {
			c.objects[e.key.Name] = e.new.(*store.Service).ExternalName
		}
		c.version = e.version
	}
	c.version = max(c.version, version)
	return nil
}

func names(h *history) map[string]string {
	out := map[string]string{}
	for key, o := range h.objects {
		out[key.Name] = o.(*store.Service).ExternalName
	}
	return out
}

func text(v uint64) string { return strconv.FormatUint(v, 10) }

// upstream is an API server's kind: every version it ever had.
type upstream struct {
	version uint64
	now     map[string]*store.Service
	log     []func(put func(store.Object, string), del func(store.Key, string))
	at      []uint64
}

func (u *upstream) change(r *rand.Rand) {
	u.version += 1 + r.Uint64N(3)
	name, v := fmt.Sprint("s", r.IntN(12)), u.version
	u.at = append(u.at, v)
	if o := u.now[name]; o != nil && r.IntN(3) == 0 {
		delete(u.now, name)
		u.log = append(u.log, func(_ func(store.Object, string), del func(store.Key, string)) { del(o.Key(), text(v)) })
		return
	}
	o := service(name, fmt.Sprint(r.IntN(3)), v)
	u.now[name] = o
	u.log = append(u.log, func(put func(store.Object, string), _ func(store.Key, string)) { put(o, text(v)) })
}

// watch replays to a history what came after its version, as a watch of the API server does.
func (u *upstream) watch(h *history, from uint64, n int) {
	for i, v := range u.at {
		if v > from && n > 0 {
			u.log[i](h.put, h.delete)
			n--
		}
	}
}

func (u *upstream) list(h *history) {
	l := h.begin()
	for _, o := range u.now {
		l.add(o)
	}
	l.end(text(u.version))
}

func (u *upstream) names() map[string]string {
	out := map[string]string{}
	for name, o := range u.now {
		out[name] = o.ExternalName
	}
	return out
}

// Whatever happens between, a client that reads on, or comes back with its version, or goes with it to the API server,
// has in the end what the API server has.
func TestClientsConverge(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		u := &upstream{version: 10, now: map[string]*store.Service{}}
		for range 5 {
			u.change(r)
		}
		h := newHistory()
		u.list(h)
		clients := []*client{lists(t, h), lists(t, h), lists(t, h)}
		for range 40 {
			switch r.IntN(8) {
			case 0: // the relay missed something and lists again
				for range r.IntN(5) {
					u.change(r)
				}
				u.list(h)
			case 1: // versions move on without us
				u.version += 5
				h.bookmark(text(u.version))
			case 2: // a watch from an older version tells again what is known
				u.change(r)
				u.watch(h, h.current()-min(h.current(), r.Uint64N(9)), 1000)
			default:
				u.change(r)
				u.watch(h, h.current(), 1000)
			}
			for _, c := range clients {
				var err error
				switch r.IntN(4) {
				case 0: // comes back with what it knows of versions
					c.at, err = h.since(c.version)
				case 1:
				default:
					err = c.read(h, 1+r.IntN(3))
				}
				if errors.Is(err, errExpired) {
					*c = *lists(t, h)
				} else if err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, c := range clients {
			if i == 0 { // this one changes over to the API server
				c.goOn(u)
			} else if err := c.read(h, 1<<20); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if diff := cmp.Diff(u.names(), c.objects); diff != "" {
				t.Fatalf("seed %d, client %d at %d (-API server +client):\n%s", seed, i, c.version, diff)
			}
		}
	}
}

func (c *client) goOn(u *upstream) {
	for i, v := range u.at {
		if v > c.version {
			u.log[i](func(o store.Object, _ string) { c.objects[o.Key().Name] = o.(*store.Service).ExternalName },
				func(key store.Key, _ string) { delete(c.objects, key.Name) })
		}
	}
}

func history3(t *testing.T) *history {
	t.Helper()
	h := newHistory()
	if _, err := h.snapshot(); !errors.Is(err, errUnknown) {
		t.Errorf("a history without data is listed with %v", err)
	}
	l := h.begin()
	for i, name := range []string{"c", "a", "b"} {
		l.add(service(name, "1", uint64(i+1)))
	}
	l.end("10")
	return h
}

func TestVersionsThatRunBackwardsEndWatches(t *testing.T) {
	h := history3(t)
	c := lists(t, h)
	l := h.begin()
	l.add(service("a", "1", 2))
	l.end("5")
	if err := c.read(h, 10); !errors.Is(err, errExpired) {
		t.Errorf("a watch over a restore of the database goes on with %v", err)
	}
	if c := lists(t, h); c.version != 5 || len(c.objects) != 1 {
		t.Errorf("a list after it has %+v", c)
	}
}

func TestRingIsBounded(t *testing.T) {
	h := history3(t)
	slow := lists(t, h)
	for v := range uint64(maxEntries + 100) {
		h.put(service("a", text(v), v+11), text(v+11))
	}
	if len(h.ring) > maxEntries {
		t.Errorf("the ring has %d entries", len(h.ring))
	}
	if err := slow.read(h, 10); !errors.Is(err, errExpired) {
		t.Errorf("a watcher that fell off its end goes on with %v", err)
	}
	if _, err := h.since(12); !errors.Is(err, errExpired) {
		t.Errorf("a forgotten version is watched from with %v", err)
	}
	if _, err := h.since(h.current() - 10); err != nil {
		t.Error(err)
	}
	big := newHistory()
	big.replace("1", map[store.Key]store.Object{})
	packed := make([]store.Endpoint, 1000)
	for v := range uint64(2000) {
		for i := range packed {
			packed[i] = store.Endpoint{Host: fmt.Sprint("host-", v, "-", i), Ready: true}
		}
		big.put(store.NewEndpointSlice(store.SliceMeta{Namespace: "a", Name: "s", Version: v + 2}, packed), text(v+2))
	}
	if big.bytes > maxBytes || len(big.ring) < 2 {
		t.Errorf("the ring of large slices has %d entries of %d bytes", len(big.ring), big.bytes)
	}
}

func TestSnapshotsStayOneVersion(t *testing.T) {
	h := history3(t)
	s, err := h.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	h.delete(store.Key{Namespace: "a", Name: "b"}, "11")
	again, err := h.snapshotAt(s.epoch, s.changes)
	if err != nil || len(again.objects) != 3 || !slices.IsSortedFunc(again.objects, func(a, b store.Object) int { return compareKeys(a.Key(), b.Key()) }) {
		t.Errorf("the version a list began with has become %v (%v)", again.objects, err)
	}
	for v := range uint64(maxSnapshots + 1) {
		h.put(service("a", text(v), v+20), text(v+20))
		if _, err := h.snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.snapshotAt(s.epoch, s.changes); !errors.Is(err, errExpired) {
		t.Errorf("a version of long ago is still kept: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"a": text(maxSnapshots), "c": "1"}, names(h)); diff != "" {
		t.Error(diff)
	}
}

func TestKindsThatGo(t *testing.T) {
	h := history3(t)
	c := lists(t, h)
	h.gone()
	if err := c.read(h, 1); !errors.Is(err, errAbsent) {
		t.Errorf("a watch of a kind that is gone goes on with %v", err)
	}
	l := h.begin()
	l.end("20")
	if c := lists(t, h); c.version != 20 {
		t.Errorf("a kind that came back is at %d", c.version)
	}
}
