// Package packed keeps DNS answers as the bytes that were sent, and gives them again to a query of the same bytes.
//
// The answers are made elsewhere, by whatever chain of plugins is configured; the table only remembers them. So an answer
// from the table cannot differ from one of the chain, whatever the chain does to names, sizes and flags. A query's own
// part is its ID; an answer's own part is the order of its addresses and the serial of its SOA. Everything else is a
// function of the query's bytes and of the data.
//
// An answer is good for as long as the data it was made from: it notes the stamps of the keys it depends on (a service, a
// namespace) when it is asked for, and a change of a key moves that key's stamp. A change therefore costs the same
// whether the table is empty or full, and only the changed service's answers are made again.
package packed

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

const (
	shards = 64
	// stamps are shared by keys that fall on the same one: then an answer is made again that could have stayed.
	stamps = 1 << 16
	// maxAnswer is the longest answer that is kept.
	maxAnswer = 4096
	// overhead of an entry: the map's slot and the structs.
	overhead = 200
)

// Table is a bounded set of packed answers. N is what the owner notes with each. Its methods may be called from several
// goroutines.
type Table[N any] struct {
	seed    maphash.Seed
	rotate  bool
	perPart int64 // bytes for each shard
	epoch   atomic.Uint32
	serial  atomic.Uint32
	stamps  [stamps]atomic.Uint32
	parts   [shards]part[N]
}

type part[N any] struct {
	mu      sync.RWMutex
	answers map[uint64]*answer[N]
	bytes   int64
}

type answer[N any] struct {
	query  []byte // without the ID
	packet []byte
	layout layout
	basis  Basis
	note   N
}

// New returns a table of at most the given number of bytes. With rotate, the addresses of an answer come in a new random
// order each time, as the loadbalance plugin orders them.
func New[N any](bytes int64, rotate bool) *Table[N] {
	t := &Table[N]{seed: maphash.MakeSeed(), rotate: rotate, perPart: max(bytes/shards, 1)}
	for i := range t.parts {
		t.parts[i].answers = map[uint64]*answer[N]{}
	}
	return t
}

// Basis is the state of the data that an answer was made from. It must be taken before the data is read.
type Basis struct {
	epoch uint32
	deps  []dep
}

type dep struct {
	slot  uint16
	stamp uint32
}

// Begin returns the basis of an answer that is about to be made, on no key yet.
func (t *Table[N]) Begin() Basis { return Basis{epoch: t.epoch.Load()} }

// On adds a key to the basis. It must be called before the key's data is read.
func (t *Table[N]) On(b *Basis, key string) {
	slot := uint16(maphash.String(t.seed, key)) //nolint:gosec // the slot is the hash's low bits
	b.deps = append(b.deps, dep{slot, t.stamps[slot].Load()})
}

// Changed says that the key's data is new. It must be called after the new data can be read.
func (t *Table[N]) Changed(key string) {
	t.stamps[uint16(maphash.String(t.seed, key))].Add(1) //nolint:gosec // the slot is the hash's low bits
}

// ChangedAll says that everything is new.
func (t *Table[N]) ChangedAll() { t.epoch.Add(1) }

// SetSerial sets the serial that the SOAs of answers carry from now on.
func (t *Table[N]) SetSerial(serial uint32) { t.serial.Store(serial) }

func (t *Table[N]) valid(b *Basis) bool {
	if b.epoch != t.epoch.Load() {
		return false
	}
	for _, d := range b.deps {
		if t.stamps[d.slot].Load() != d.stamp {
			return false
		}
	}
	return true
}

// Cacheable says whether the query is one whose answer Store would keep.
func Cacheable(query []byte) bool { return plain(query) }

// Store keeps the packet as the answer to the query, if both are fit for it, and says whether it did.
func (t *Table[N]) Store(query, packet []byte, b Basis, note N) bool {
	const truncated = 0x02
	if !plain(query) || len(packet) > maxAnswer || len(packet) < headerSize || packet[2]&truncated != 0 || !t.valid(&b) {
		return false
	}
	l, movable, ok := layoutOf(packet)
	if !ok || t.rotate && !movable {
		return false
	}
	if !t.rotate {
		l.blocks = nil
	}
	a := &answer[N]{query: append([]byte(nil), query[2:]...), packet: append([]byte(nil), packet...), layout: l, basis: b, note: note}
	hash := maphash.Bytes(t.seed, a.query)
	p := &t.parts[hash%shards]
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.answers[hash]; ok {
		p.bytes -= old.size()
	}
	p.answers[hash] = a
	p.bytes += a.size()
	for other, old := range p.answers { // in random order
		if p.bytes <= t.perPart {
			break
		}
		delete(p.answers, other)
		p.bytes -= old.size()
	}
	return true
}

func (a *answer[N]) size() int64 { return int64(len(a.query)+len(a.packet)) + overhead }

// Append appends the answer to the query to out, if there is one, and returns what was noted with it. random orders the
// addresses.
func (t *Table[N]) Append(out, query []byte, random *rand.PCG) (_ []byte, note N, ok bool) {
	if len(query) < headerSize || len(query) > maxQuery {
		return out, note, false
	}
	hash := maphash.Bytes(t.seed, query[2:])
	p := &t.parts[hash%shards]
	p.mu.RLock()
	a := p.answers[hash]
	p.mu.RUnlock()
	if a == nil || string(a.query) != string(query[2:]) || !t.valid(&a.basis) {
		return out, note, false
	}
	start := len(out)
	out = append(out, a.packet...)
	msg := out[start:]
	msg[0], msg[1] = query[0], query[1]
	for _, off := range a.layout.serials {
		binary.BigEndian.PutUint32(msg[off:], t.serial.Load())
	}
	for i := range a.layout.blocks {
		a.layout.blocks[i].shuffle(msg, a.packet, random)
	}
	return out, a.note, true
}

// shuffle writes the block's records from the packet to msg in a random order.
func (b *block) shuffle(msg, packet []byte, random *rand.PCG) {
	n := len(b.ends)
	if n == 2 {
		if random.Uint64()&1 == 0 {
			return
		}
		copied := copy(msg[b.start:], packet[b.ends[0]:b.ends[1]])
		copy(msg[b.start+copied:], packet[b.start:b.ends[0]])
		return
	}
	var few [64]uint16
	order := few[:0]
	for i := range n {
		order = append(order, uint16(i)) //nolint:gosec // an answer of 4 KiB has few records
	}
	off := b.start
	for i := range n {
		j := i + int(random.Uint64()%uint64(n-i)) //nolint:gosec // less than n
		order[i], order[j] = order[j], order[i]
		from := b.start
		if k := order[i]; k > 0 {
			from = b.ends[k-1]
		}
		off += copy(msg[off:], packet[from:b.ends[order[i]]])
	}
}

// Len is the number of answers kept, stale ones included.
func (t *Table[N]) Len() int {
	n := 0
	for i := range t.parts {
		t.parts[i].mu.RLock()
		n += len(t.parts[i].answers)
		t.parts[i].mu.RUnlock()
	}
	return n
}
