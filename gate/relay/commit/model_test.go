package commit

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// The model: an API server whose state is a number that grows, with replicas that lag; clients that arrive, give up and
// take answers in any order; and one Key. Each step is drawn from a seeded source, so that a failure is replayed by its
// seed (-seed). What must hold is written in check and nowhere else.

var seed = flag.Uint64("seed", 0, "replay this interleaving of the model only")

const (
	interleavings = 1000
	steps         = 400
	maxAge        = 7 * time.Second
)

type read struct {
	batch *Batch[*read]
	// truth is the state when the read was looked at by the server; 0 until then.
	truth uint64
	keep  bool
}

type client struct {
	ask            Ask
	arrived        time.Time
	truthAtArrival uint64
	servedBefore   uint64
	// truthBound is the state at the earliest moment the answer may be of.
	truthBound uint64
	batch      *Batch[*read]
}

type world struct {
	rng     *rand.Rand
	now     time.Time
	truth   uint64
	history []struct {
		at    time.Time
		truth uint64
	}
	key     *Key[*read]
	reads   []*read
	clients []*client
	log     strings.Builder
	answers int
	shared  int
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0), truth: 100}
	w.key = New(func() *Batch[*read] { return &Batch[*read]{Data: &read{}} })
	w.note()
	return w
}

func (w *world) note() {
	w.history = append(w.history, struct {
		at    time.Time
		truth uint64
	}{w.now, w.truth})
}

// truthAt is the state as it was then.
func (w *world) truthAt(t time.Time) uint64 {
	truth := w.history[0].truth
	for _, h := range w.history {
		if h.at.After(t) {
			break
		}
		truth = h.truth
	}
	return truth
}

func (w *world) begin(b *Batch[*read]) {
	b.Data.batch = b
	b.Data.keep = w.rng.IntN(3) > 0
	if !b.Data.keep && w.rng.IntN(2) == 0 {
		w.key.Torn(b)
	}
	w.reads = append(w.reads, b.Data)
	running := map[Class]int{}
	for _, r := range w.reads {
		running[r.batch.Class]++
	}
	for c, n := range running {
		if n > 1 {
			panic(fmt.Sprintf("%d reads of class %d run at once", n, c))
		}
	}
}

// current is the rule of the caller for kept answers: here a coin, which is weaker than any rule it may have.
func (w *world) current(*Batch[*read]) bool { return w.rng.IntN(2) == 0 }

func (w *world) arrive() {
	ask := Ask{Class: Class(w.rng.IntN(2))}
	if ask.Class == Cached && w.rng.IntN(3) == 0 {
		ask.NotBelow = 95 + w.rng.Uint64N(w.truth-90)
	}
	if ask.Class == Recent && w.rng.IntN(4) == 0 {
		ask.MaxAge = maxAge
	}
	c := &client{ask: ask, arrived: w.now, truthAtArrival: w.truth, servedBefore: w.key.Served(), truthBound: w.truthAt(w.now.Add(-ask.MaxAge))}
	b, action := w.key.Join(w.now, ask, w.current)
	c.batch = b
	if action == Start {
		w.begin(b)
	}
	w.clients = append(w.clients, c)
	fmt.Fprintf(&w.log, "%s arrive class=%d notBelow=%d maxAge=%s truth=%d served=%d action=%d\n",
		w.now.Format("05.000"), ask.Class, ask.NotBelow, ask.MaxAge, w.truth, c.servedBefore, action)
}

// look is the moment in a read at which the API server takes the state it will answer with.
func (w *world) look(r *read) {
	if r.truth != 0 {
		return
	}
	r.truth = w.truth
	if r.batch.Class == Cached {
		oldest := max(r.batch.Floor, 90)
		if oldest < w.truth {
			r.truth = oldest + w.rng.Uint64N(w.truth-oldest+1) // a replica that lags
		}
	}
	if w.key.Learned(r.batch, r.truth) {
		panic("versions seemed to run backwards and did not")
	}
}

func (w *world) end(i int) {
	r := w.reads[i]
	ok := w.rng.IntN(8) > 0
	if ok {
		w.look(r)
	}
	w.reads = append(w.reads[:i], w.reads[i+1:]...)
	_, _, next := w.key.Ended(r.batch, w.now, ok && r.keep)
	if next != nil {
		w.begin(next)
	}
	fmt.Fprintf(&w.log, "%s end class=%d version=%d ok=%t\n", w.now.Format("05.000"), r.batch.Class, r.batch.Version(), ok)
}

func (w *world) take(i int) error {
	c := w.clients[i]
	if !c.batch.Finished() && c.batch.Version() == 0 {
		return nil // nothing to take yet
	}
	w.clients = append(w.clients[:i], w.clients[i+1:]...)
	defer w.key.Leave(c.batch)
	version := c.batch.Version()
	if version == 0 {
		return nil // the read failed; everyone in the batch is told
	}
	w.answers++
	if c.batch.Joined > 1 {
		w.shared++
	}
	return c.check(version)
}

// check is what every answer must satisfy.
func (c *client) check(version uint64) error {
	switch {
	case c.ask.Class == Recent && version < c.truthBound:
		return fmt.Errorf("asked for the most recent state (max age %s) at %d, got %d", c.ask.MaxAge, c.truthBound, version)
	case c.ask.Class == Cached && c.ask.NotBelow <= c.truthAtArrival && version < c.ask.NotBelow:
		return fmt.Errorf("asked for a state not older than %d, got %d", c.ask.NotBelow, version)
	case version < c.servedBefore:
		return fmt.Errorf("%d was served before the request arrived, it got %d", c.servedBefore, version)
	}
	return nil
}

func (w *world) step() error {
	w.now = w.now.Add(time.Duration(w.rng.IntN(1500)) * time.Millisecond)
	switch w.rng.IntN(8) {
	case 0, 1:
		w.arrive()
	case 2:
		w.truth += 1 + w.rng.Uint64N(3)
		w.note()
	case 3:
		if len(w.reads) > 0 {
			w.look(w.reads[w.rng.IntN(len(w.reads))])
		}
	case 4:
		if len(w.reads) > 0 {
			w.end(w.rng.IntN(len(w.reads)))
		}
	case 5, 6:
		if len(w.clients) > 0 {
			return w.take(w.rng.IntN(len(w.clients)))
		}
	case 7:
		switch {
		case w.rng.IntN(4) == 0 && len(w.clients) > 0: // a client gives up
			i := w.rng.IntN(len(w.clients))
			w.key.Leave(w.clients[i].batch)
			w.clients = append(w.clients[:i], w.clients[i+1:]...)
		case w.rng.IntN(8) == 0:
			w.key.Drop()
		}
	}
	return nil
}

// settle lets every read end and every client take its answer: nobody may be left waiting.
func (w *world) settle() error {
	for len(w.reads) > 0 {
		w.end(0)
	}
	for len(w.clients) > 0 {
		before := len(w.clients)
		if err := w.take(0); err != nil {
			return err
		}
		if len(w.clients) == before {
			return fmt.Errorf("a client of class %d waits for a batch that nobody reads", w.clients[0].ask.Class)
		}
	}
	w.key.Drop()
	if !w.key.Idle() {
		return fmt.Errorf("the key is not idle when everyone is gone")
	}
	return nil
}

func TestModel(t *testing.T) {
	seeds := make([]uint64, 0, interleavings)
	for s := range uint64(interleavings) {
		seeds = append(seeds, s+1)
	}
	if *seed != 0 {
		seeds = []uint64{*seed}
	}
	answers, shared := 0, 0
	for _, s := range seeds {
		w := newWorld(s)
		var err error
		for i := 0; i < steps && err == nil; i++ {
			err = w.step()
		}
		if err == nil {
			err = w.settle()
		}
		if err != nil {
			t.Fatalf("seed %d (replay with -seed %d): %v\n%s", s, s, err, w.log.String())
		}
		answers, shared = answers+w.answers, shared+w.shared
	}
	t.Logf("%d interleavings, %d answers, %d of them shared", len(seeds), answers, shared)
	if *seed == 0 && shared < answers/3 {
		t.Errorf("the model hardly shares (%d of %d): it shows nothing", shared, answers)
	}
}

// TestModelCatchesTheNaiveRule shows that the model can fail: sharing with a read that is already under way, which is what
// singleflight does, gives answers older than their request.
func TestModelCatchesTheNaiveRule(t *testing.T) {
	for s := range uint64(200) {
		w := newWorld(s + 1)
		for range steps {
			w.now = w.now.Add(time.Second)
			switch w.rng.IntN(5) {
			case 0:
				c := &client{ask: Ask{}, truthBound: w.truth, servedBefore: w.key.Served()}
				if b := w.key.running[Recent]; b != nil {
					c.batch = b.join()
				} else {
					b, _ := w.key.Join(w.now, c.ask, w.current)
					w.begin(b)
					c.batch = b
				}
				w.clients = append(w.clients, c)
			case 1:
				w.truth++
				w.note()
			case 2:
				if len(w.reads) > 0 {
					w.look(w.reads[0])
				}
			case 3:
				if len(w.reads) > 0 {
					w.end(0)
				}
			case 4:
				if len(w.clients) > 0 && w.take(0) != nil {
					return
				}
			}
		}
	}
	t.Error("the model found nothing wrong with singleflight")
}
