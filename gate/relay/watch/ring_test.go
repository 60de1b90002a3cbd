package watch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

// logged is one event of the API server's history.
type logged struct {
	version  uint64
	bookmark bool
}

// purse is a budget that can be bounded while it is in use.
type purse struct{ taken, most int }

func (p *purse) Take(n int) bool {
	if p.taken+n > p.most {
		return false
	}
	p.taken += n
	return true
}

func (p *purse) Give(n int) { p.taken -= n }

// modelReader is a subscriber as Follow moves it: through the ring where that reaches back far enough, by a watch of
// its own until then.
type modelReader struct {
	from      uint64
	bookmarks bool
	version   uint64 // what it knows
	inRing    bool
	position  position
	log       int // of the history, while it has a watch of its own
	dropped   bool
	got       []logged
}

// model is the API server's history, one ring that follows it, and readers, moved in any order.
type model struct {
	history []logged
	ring    ring
	fed     int // how much of the history the ring's watch has read
	purse   *purse
	readers []*modelReader
}

func (m *model) bytes(e logged) []byte {
	return binary.BigEndian.AppendUint64(nil, e.version)
}

// happen adds to the history.
func (m *model) happen(r *rand.Rand) {
	last := uint64(10)
	if n := len(m.history); n > 0 {
		last = m.history[n-1].version
	}
	e := logged{version: last + 1 + r.Uint64N(3)}
	if r.IntN(5) == 0 {
		e = logged{version: last + r.Uint64N(2), bookmark: true} // a bookmark may repeat the newest version
	}
	m.history = append(m.history, e)
}

// feed lets the ring read on. Sometimes the watch breaks and is resumed from the newest version the ring knows.
func (m *model) feed(r *rand.Rand) {
	if r.IntN(10) == 0 {
		for m.fed = 0; m.fed < len(m.history) && m.history[m.fed].version <= m.ring.head; m.fed++ {
		}
	}
	if m.fed == len(m.history) {
		return
	}
	e := m.history[m.fed]
	m.fed++
	kind := frame.Modified
	if e.bookmark {
		kind = frame.Bookmark
	}
	m.ring.append(entry{kind: kind, version: e.version, frame: m.bytes(e)})
}

func (m *model) join(r *rand.Rand) {
	from := uint64(10)
	if n := len(m.history); n > 0 {
		from = m.history[r.IntN(n)].version
		from += r.Uint64N(3) // a LIST's version need not be an event's, and may be ahead of the watch
		from = min(from, m.history[n-1].version)
	}
	m.readers = append(m.readers, &modelReader{from: from, version: from, bookmarks: r.IntN(2) == 0})
}

// step moves one reader by at most one entry.
func (m *model) step(reader *modelReader) {
	if reader.dropped {
		return
	}
	if !reader.inRing {
		if p, ok := m.ring.seek(reader.version); ok {
			reader.position, reader.inRing = p, true
			return
		}
		// Its own watch: the history after what it knows.
		for ; reader.log < len(m.history); reader.log++ {
			e := m.history[reader.log]
			if e.version < reader.version || e.version == reader.version && !e.bookmark || e.version <= reader.from {
				continue
			}
			reader.version = e.version
			reader.log++
			if !e.bookmark || reader.bookmarks {
				reader.got = append(reader.got, e)
			}
			return
		}
		return
	}
	e, turn := m.ring.next(&reader.position, reader.bookmarks)
	switch turn {
	case lost:
		reader.dropped = true
	case delivery:
		reader.got = append(reader.got, logged{binary.BigEndian.Uint64(e.frame), e.kind == frame.Bookmark})
		reader.version = reader.position.version
	}
}

// check compares what a reader has got with the history.
func (m *model) check(reader *modelReader, settled bool) error {
	var want []uint64
	for _, e := range m.history {
		if !e.bookmark && e.version > reader.from {
			want = append(want, e.version)
		}
	}
	n, known := 0, reader.from
	for _, e := range reader.got {
		if e.version < known {
			return fmt.Errorf("version %d after %d", e.version, known)
		}
		known = e.version
		if e.bookmark {
			if !reader.bookmarks {
				return fmt.Errorf("a bookmark nobody asked for")
			}
			// A bookmark says that everything up to it was told.
			if n < len(want) && want[n] <= e.version {
				return fmt.Errorf("bookmark %d before event %d", e.version, want[n])
			}
			continue
		}
		if n >= len(want) || want[n] != e.version {
			return fmt.Errorf("event %d is not the next of %v", e.version, want[min(n, len(want)):])
		}
		n++
	}
	switch {
	case reader.dropped && (n >= len(want) || want[n] > m.ring.floor):
		return fmt.Errorf("dropped, though what comes next for it was not let go (floor %d)", m.ring.floor)
	case reader.dropped:
		return nil
	case settled && n != len(want):
		return fmt.Errorf("got %d of %d events", n, len(want))
	}
	return nil
}

// Over many interleavings of writes, broken watches, slow and fast readers and short memory: no event is lost, told twice or out of
// order, bookmarks go to those who asked, and who is dropped was too slow.
func TestModel(t *testing.T) {
	const runs = 4000
	dropped, moved, starved := 0, 0, 0
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 5))
		m := &model{purse: &purse{most: 1 << 30}}
		for range r.IntN(20) {
			m.happen(r)
		}
		from := uint64(10)
		if len(m.history) > 0 {
			from = m.history[len(m.history)/2].version
		}
		m.ring = newRing(from, limits{entries: 1 + r.IntN(12), bytes: 1000 + r.IntN(2000)}, m.purse)
		for m.fed < len(m.history) && m.history[m.fed].version <= from {
			m.fed++
		}
		lazy := r.IntN(4)
		for range 300 {
			switch n := r.IntN(20); {
			case n < 4:
				m.happen(r)
			case n < 9:
				m.feed(r)
			case n == 9 && len(m.readers) < 8:
				m.join(r)
			case n == 10:
				m.purse.most = r.IntN(2000)
			case len(m.readers) > 0:
				i := r.IntN(len(m.readers))
				if i < lazy && r.IntN(4) > 0 {
					continue
				}
				was := m.readers[i].inRing
				m.step(m.readers[i])
				if !was && m.readers[i].inRing && len(m.readers[i].got) > 0 {
					moved++
				}
			}
			if m.ring.bytes != m.purse.taken || m.ring.bytes > m.ring.most.bytes || m.ring.count > m.ring.most.entries {
				t.Fatalf("seed %d: %d bytes, %d taken, %d entries; most %+v", seed, m.ring.bytes, m.purse.taken, m.ring.count, m.ring.most)
			}
		}
		if m.purse.most < 150 {
			starved++
		}
		m.purse.most = 1 << 30
		for m.fed < len(m.history) {
			m.feed(r)
			for _, reader := range m.readers {
				for range 3 {
					m.step(reader)
				}
			}
		}
		for range len(m.history) + 2 {
			for _, reader := range m.readers {
				m.step(reader)
			}
		}
		for i, reader := range m.readers {
			if err := m.check(reader, true); err != nil {
				t.Fatalf("seed %d: reader %d from %d: %v\ngot %v\nhistory %v", seed, i, reader.from, err, reader.got, m.history)
			}
			if reader.dropped {
				dropped++
			}
		}
		m.ring.clear()
		if m.purse.taken != 0 {
			t.Fatalf("seed %d: %d bytes were not given back", seed, m.purse.taken)
		}
	}
	if dropped < 100 || moved < 100 || starved < 100 {
		t.Errorf("the runs are too tame: %d readers were dropped, %d moved over after events of their own, %d runs starved", dropped, moved, starved)
	}
	t.Logf("%d runs: %d readers dropped, %d moved over, %d starved", runs, dropped, moved, starved)
}

// An error belongs to those who know no more than the version it was about.
func TestErrorsAreForThoseTheyAreAbout(t *testing.T) {
	r := newRing(100, limits{10, 1 << 20}, &purse{most: 1 << 20})
	r.append(entry{kind: frame.Error, version: 100})
	for version, want := range map[uint64]turn{100: delivery, 101: elsewhere} {
		p, ok := r.seek(100)
		if !ok {
			t.Fatal("100 must be in the ring")
		}
		p.version = version
		p.next = 0
		if _, got := r.next(&p, true); got != want {
			t.Errorf("a reader at %d: %v, want %v", version, got, want)
		}
	}
	for version, want := range map[uint64]turn{100: delivery, 101: nothing} {
		p, _ := r.seek(version)
		if _, got := r.next(&p, true); got != want {
			t.Errorf("one that comes from %d: %v, want %v", version, got, want)
		}
	}
}
