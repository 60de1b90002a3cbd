package agents

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"time"
)

// body is what an answer's body was.
type body struct {
	hash    uint64
	bytes   int64
	objects int // of a stream only; what a LIST has, the checker knows by its hash
}

// checker finds out whether answers are complete. What comes unpacked is counted as it comes. Of what comes packed many are
// the same bytes: one is kept, unpacked and counted, and the others are known by their hash. What is never counted is not complete. Unpacking waits until nothing is
// measured any more: it would take the CPU from whoever answers.
type checker struct {
	objects int
	seed    maphash.Seed

	mu       sync.Mutex
	verdicts map[body]string // "" is complete, anything else says why not
	packed   map[body][]byte // kept, and not yet unpacked
	keeping  map[uint64]int  // by the hash of the first bytes, how many are being kept
	kept     int64           // bytes
}

const (
	// prefix bytes tell one answer from another: the resource version is among the first of them.
	prefix = 4 << 10
	// keepers of one answer are three: the first may not get to its end.
	keepers = 3
	// mostKept bounds what all keepers have.
	mostKept = 1 << 30
)

func newChecker(objects int) *checker {
	return &checker{objects: objects, seed: maphash.MakeSeed(), verdicts: map[body]string{}, packed: map[body][]byte{}, keeping: map[uint64]int{}}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// read reads a body to its end, and says when that was: what is done with it then is not the answer's time.
func (c *checker) read(r io.Reader, packed bool) (got body, ended time.Time, err error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var hash maphash.Hash
	hash.SetSeed(c.seed)
	n := 0
	for n < prefix && err == nil {
		var more int
		more, err = r.Read((*buffer)[n:prefix])
		n += more
	}
	_, _ = hash.Write((*buffer)[:n])
	got.bytes = int64(n)
	var whole []byte
	var plain tally
	plain.add((*buffer)[:n])
	keep := packed && c.keep(hash.Sum64(), int64(n))
	if keep {
		whole = append(whole, (*buffer)[:n]...)
	}
	for err == nil {
		n, err = r.Read(*buffer)
		_, _ = hash.Write((*buffer)[:n])
		got.bytes += int64(n)
		switch {
		case !packed:
			plain.add((*buffer)[:n])
		case keep:
			if keep = c.grow(int64(n)); keep {
				whole = append(whole, (*buffer)[:n]...)
			}
		}
	}
	ended = time.Now()
	got.hash = hash.Sum64()
	if !errors.Is(err, io.EOF) {
		c.release(int64(len(whole)))
		return got, ended, err
	}
	if !packed {
		objects, err := plain.objects()
		c.note(got, objects, err)
		return got, ended, nil
	}
	if !keep || !c.put(got, whole) {
		c.release(int64(len(whole)))
	}
	return got, ended, nil
}

func (c *checker) keep(first uint64, n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keeping[first] >= keepers || c.kept+n > mostKept {
		return false
	}
	c.keeping[first]++
	c.kept += n
	return true
}

func (c *checker) grow(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept+n > mostKept {
		return false
	}
	c.kept += n
	return true
}

// release gives the memory back. Whoever was judged is not kept again: the count stays.
func (c *checker) release(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = max(0, c.kept-n)
}

// put keeps a packed body for later, unless there is one of the same bytes.
func (c *checker) put(got body, whole []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.verdicts[got]; known || c.packed[got] != nil {
		return false
	}
	c.packed[got] = whole
	return true
}

// judge unpacks a kept body and notes what it is.
func (c *checker) judge(got body, whole []byte) {
	objects, err := unpacked(whole)
	c.note(got, objects, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.packed, got)
	c.kept -= int64(len(whole))
}

// note keeps what a body was found to be.
func (c *checker) note(got body, objects int, err error) {
	verdict := ""
	if err != nil {
		verdict = err.Error()
	} else if objects != c.objects {
		verdict = fmt.Sprintf("%d objects instead of %d", objects, c.objects)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verdicts[got] = verdict
}

// complete says whether an answer was, and if not, why.
func (c *checker) complete(got body) (bool, string) {
	c.mu.Lock()
	whole := c.packed[got]
	c.mu.Unlock()
	if whole != nil {
		c.judge(got, whole)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	verdict, known := c.verdicts[got]
	if !known {
		return false, "it was the same as none that was counted"
	}
	return verdict == "", verdict
}

var (
	itemMark = []byte(`{"metadata":{"name":"`)
	listEnd  = []byte("]}\n")
)

// unpacked counts the objects of a packed LIST in JSON.
func unpacked(whole []byte) (int, error) {
	z, err := gzip.NewReader(bytes.NewReader(whole))
	if err != nil {
		return 0, fmt.Errorf("unpacking: %w", err)
	}
	if whole, err = io.ReadAll(z); err != nil { // its checksum and its length are at the end
		return 0, fmt.Errorf("unpacking: %w", err)
	}
	var t tally
	t.add(whole)
	return t.objects()
}

// tally counts the objects of a LIST in JSON as its bytes come: each begins as the API server begins them, and the last
// bytes close the list.
type tally struct {
	n    int
	tail []byte // the last bytes, in which a mark may have begun
}

func (t *tally) add(p []byte) {
	t.n += bytes.Count(p, itemMark)
	// What straddles: fewer bytes of either side than a mark has.
	border := append(t.tail[:len(t.tail):len(t.tail)], p[:min(len(p), len(itemMark)-1)]...)
	if len(t.tail) > 0 {
		t.n += bytes.Count(border, itemMark)
	}
	if len(p) < len(itemMark)-1 {
		p = border
	}
	t.tail = append([]byte(nil), p[max(0, len(p)-len(itemMark)+1):]...)
}

func (t *tally) objects() (int, error) {
	if !bytes.HasSuffix(t.tail, listEnd) {
		return 0, errors.New("its last bytes do not close a list")
	}
	return t.n, nil
}

// initialEventsEnd is in the bookmark that ends the initial events.
var initialEventsEnd = []byte(`k8s.io/initial-events-end":"true"`)

var errEndedEarly = errors.New("the watch ended before its initial events did")

// readInitialEvents reads a watch, one event a line, until the line of the bookmark ends.
func readInitialEvents(r io.Reader) (body, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	got := body{}
	// The mark may be cut by a read: the last bytes of the one before stay in front.
	kept, seen := 0, false
	for {
		n, err := r.Read((*buffer)[kept:])
		got.bytes += int64(n)
		fresh := (*buffer)[kept : kept+n]
		if !seen {
			all := (*buffer)[:kept+n]
			if at := bytes.Index(all, initialEventsEnd); at >= 0 {
				seen = true
				// Lines before the mark are events; what follows its own line end is no longer initial.
				got.objects += bytes.Count(fresh[:max(0, at-kept)], []byte("\n"))
				fresh = all[at:]
			} else {
				got.objects += bytes.Count(fresh, []byte("\n"))
				kept = copy(*buffer, all[max(0, len(all)-len(initialEventsEnd)+1):])
			}
		}
		if seen {
			if bytes.IndexByte(fresh, '\n') >= 0 {
				return got, nil
			}
			kept = 0
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errEndedEarly
			}
			return got, err
		}
	}
}
