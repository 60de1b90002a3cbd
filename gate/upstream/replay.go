package upstream

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// An API server may say at any time that it takes no more requests on a connection: --goaway-chance does it on purpose,
// so that long-lived connections spread over the servers, and a server that shuts down does it too. Its GOAWAY names the
// last request it took. Those sent after it were not looked at, and it is safe to send them again: with the GOAWAY the
// server has said so (RFC 9113, section 6.8). But their bodies were read from the client, who sends them once. A proxy
// without the body can only fail the write, which is what Teleport's and the API server's own aggregator did
// (gravitational/teleport#57766, kubernetes/kubernetes#135287); one that keeps every body gives its memory to whoever
// uploads.
//
// So a body is kept while it passes, up to maxKept a request and keptBudget for all, and only until the answer begins.
// A request whose body was not kept is told to come again (429 and Retry-After), because it is known that it did nothing.
//
// Nothing else is sent twice: a connection that breaks without a GOAWAY leaves open what happened to the request.

const (
	// maxKept is the most that is kept of one request's body. Objects are smaller than etcd's 1.5 MiB, nearly all of
	// them far smaller; patches more so.
	maxKept = 1 << 20
	// keptBudget is the most that is kept of all bodies together: 64 of the largest, or thousands of usual ones.
	keptBudget = 64 << 20
	// firstKept is what a buffer begins with. It doubles as the body arrives, not as the client announces it: an
	// announcement is free, memory is not.
	firstKept = 4 << 10
	// maxReplays bounds how often a request is sent again. At --goaway-chance=0.02, its maximum, one connection in fifty
	// requests ends, and perhaps every fourth request on the way meets it: sixteen in a row do not happen by chance.
	maxReplays = 16
)

// errNotTaken is what Request.GetBody answers to net/http, which asks for the body again only when the server did not
// process the request: it was sent away by GOAWAY or refused (REFUSED_STREAM), or nothing of it was written. (It also
// asks after a PROTOCOL_ERROR, which an API server, being net/http itself, sends for a malformed request before any
// handler runs.) net/http would wait a second, two, four, … between its attempts; the transport of this package does
// better, because it can go to another API server at once.
var errNotTaken = errors.New("the API server did not take the request: it is closing the connection")

// errNotKept says that a request was not taken and its body is gone.
var errNotKept = errors.New("the API server is closing the connection, and the request's body was not kept to be sent again")

// Bodies keeps request bodies for as long as they may have to be sent again. It is shared by all proxies of a process,
// so that its bound is the process's, and safe for concurrent use.
type Bodies struct {
	free    atomic.Int64
	metrics *bodyMetrics
}

// NewBodies registers its metrics with the registerer, if there is one.
func NewBodies(registerer prometheus.Registerer) *Bodies {
	b := &Bodies{}
	b.free.Store(keptBudget)
	b.metrics = newBodyMetrics(registerer, func() float64 { return float64(keptBudget - b.free.Load()) })
	return b
}

func (b *Bodies) take(n int) bool {
	if b.free.Add(int64(-n)) >= 0 {
		return true
	}
	b.free.Add(int64(n))
	return false
}

// keep returns a body that remembers what was read from the source, whose length was announced or is -1. release must be
// called when it need not remember any longer.
func (b *Bodies) keep(source io.Reader, announced int64) *keptBody {
	k := &keptBody{bodies: b, source: source, first: firstKept}
	if announced > 0 && announced < firstKept {
		k.first = int(announced)
	}
	return k
}

// keptBody is one request's body, read by one attempt to send it after the other.
type keptBody struct {
	bodies *Bodies
	source io.Reader
	first  int // what the buffer begins with
	// reading is held while the source is read: an attempt that was given up may still be waiting for the client, and
	// what it then gets is the next attempt's.
	reading sync.Mutex

	mu      sync.Mutex // guards the rest
	buf     []byte
	charged int    // what was taken from the budget
	lost    string // why not everything is kept; "" while it is
	over    bool   // release was called: what is read from now on passes without being kept
	ended   error  // how the source ended
}

// open starts an attempt at the body's beginning.
func (k *keptBody) open() io.ReadCloser { return &attempt{body: k} }

// replayable says whether everything read so far is kept, and why not.
func (k *keptBody) replayable() (bool, string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost == "", k.lost
}

// release gives the memory back. The attempt under way may go on reading.
func (k *keptBody) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	k.bodies.free.Add(int64(k.charged))
	k.charged = 0
}

// remember keeps what was just read. The caller holds mu.
func (k *keptBody) remember(p []byte) {
	if k.lost != "" || k.over || len(p) == 0 {
		return
	}
	need := len(k.buf) + len(p)
	if need > maxKept {
		k.forget(refusedSize)
		return
	}
	if need > cap(k.buf) {
		size := max(k.first, cap(k.buf))
		for size < need {
			size *= 2
		}
		if !k.bodies.take(size - k.charged) {
			k.forget(refusedMemory)
			return
		}
		k.charged = size
		k.buf = append(make([]byte, 0, size), k.buf...)
	}
	k.buf = append(k.buf, p...)
}

func (k *keptBody) forget(why string) {
	k.lost, k.buf = why, nil
	k.bodies.free.Add(int64(k.charged))
	k.charged = 0
}

// attempt reads a kept body from its beginning: what is kept, then the rest from the client.
type attempt struct {
	body *keptBody
	at   int
}

// Read implements io.Reader.
func (a *attempt) Read(p []byte) (int, error) {
	k := a.body
	k.reading.Lock()
	defer k.reading.Unlock()
	if n, err := a.readKept(p); n > 0 || err != nil || len(p) == 0 {
		return n, err
	}
	n, err := k.source.Read(p)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remember(p[:n])
	a.at += n
	if err != nil {
		k.ended = err
	}
	return n, err
}

// readKept reads what is there without asking the client.
func (a *attempt) readKept(p []byte) (int, error) {
	k := a.body
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.at < len(k.buf) {
		n := copy(p, k.buf[a.at:])
		a.at += n
		return n, nil
	}
	return 0, k.ended
}

// Close implements io.Closer. The client's body stays open: a transport closes what it gives up on, and the next server
// still needs it. ReverseProxy closes it in the end.
func (a *attempt) Close() error { return nil }

// roundTrip sends the request, and sends it again for as long as API servers say that they did not take it.
func (t *transport) roundTrip(r *http.Request, x *exchange) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return t.send(r, x) // without a body net/http does all this by itself
	}
	body := t.bodies.keep(r.Body, r.ContentLength)
	defer body.release()
	r.GetBody = func() (io.ReadCloser, error) { return nil, errNotTaken }
	for replays := 0; ; replays++ {
		r.Body = body.open()
		response, err := t.send(r, x)
		if !errors.Is(err, errNotTaken) || r.Context().Err() != nil {
			return response, err
		}
		kept, reason := body.replayable()
		if kept && replays == maxReplays {
			kept, reason = false, refusedAttempts
		}
		if !kept {
			t.bodies.metrics.refused.WithLabelValues(reason).Inc()
			return nil, errNotKept
		}
		t.bodies.metrics.replays.Inc()
		if err := pause(r, replays); err != nil {
			return nil, err
		}
	}
}

// pause waits before a request is sent again: not at all at first, then a little longer each time, in case a server
// sends everyone away.
func pause(r *http.Request, replays int) error {
	if replays < 3 {
		return nil
	}
	wait := time.NewTimer(rand.N(time.Millisecond << min(replays, 7)))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}
