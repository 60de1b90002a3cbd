// Package agents is the load: many clients that do the same again and again, as a DaemonSet's pods do: they read a whole
// collection, write, or open watches, and obey what they are told as client-go does. It runs in a process of its own, which
// gives way, so that what it costs is not in the latencies of whoever else asks. No answer is believed for its status: what
// is not complete is a failure.
package agents

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/bench/load"
)

// Spec says what the agents do.
type Spec struct {
	URL string `json:"url"`
	CA  []byte `json:"ca"`
	// Does is what each request is.
	Does Work `json:"does"`
	// Paths are what is asked for: agent i asks for one of them, always the same.
	Paths []string `json:"paths"`
	// Tokens has one an agent, which may be empty.
	Tokens []string `json:"tokens"`
	// Certificate and Key, in PEM, are all agents' client certificate, if they have one.
	Certificate []byte `json:"certificate,omitempty"`
	Key         []byte `json:"key,omitempty"`
	// PerConnection is how many agents share an HTTP/2 connection; 0 is one.
	PerConnection int `json:"perConnection,omitempty"`
	// Period is between the starts of two requests of an agent; the first are spread over it.
	Period time.Duration `json:"period"`
	// WarmUp is before, Measure is how long what comes is counted.
	WarmUp  time.Duration `json:"warmUp"`
	Measure time.Duration `json:"measure"`
	// Hold: when the time measured is over they go on, uncounted, until the input ends: whoever else is still waiting for an
	// answer is not rescued by their end.
	Hold bool `json:"hold,omitempty"`
	// Objects is how many a complete LIST or WatchList has.
	Objects int `json:"objects"`
}

// Work is what an agent does.
type Work string

// The works.
const (
	// List reads a collection.
	List Work = "list"
	// WatchList reads the initial events of a watch until the bookmark that ends them, and leaves.
	WatchList Work = "watchList"
	// WatchOpen opens a watch and leaves when it is answered.
	WatchOpen Work = "watchOpen"
	// Patch writes an object that others write too.
	Patch Work = "patch"
	// Inform LISTs once and watches from there, as an informer does; see Inform.
	Inform Work = "inform"
)

// Outcome is what came within the time measured.
type Outcome struct {
	// Delivered answers were complete. Refused were 429, Failed all else that was no answer, Wrong answers that were
	// not complete.
	Delivered int64 `json:"delivered"`
	Refused   int64 `json:"refused"`
	Failed    int64 `json:"failed"`
	Wrong     int64 `json:"wrong"`
	Bytes     int64 `json:"bytes"`
	// Received are the bytes of all answers, those under way included; Size is what a complete one has on average.
	Received int64   `json:"received"`
	Size     float64 `json:"size"`
	// Seconds is how long was measured, P50 and P99 how long a complete answer took, in milliseconds.
	Seconds float64 `json:"seconds"`
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	// InSync is how many informers are in sync at the end.
	InSync int `json:"inSync,omitempty"`
	// Err is the first thing that failed.
	Err string `json:"err,omitempty"`
}

// PerSecond is the rate of complete answers.
func (o *Outcome) PerSecond() float64 { return float64(o.Delivered) / o.Seconds }

// InPart is the rate of answers where those that are under way at the ends count as far as they came within the time. It
// is what can be held against one who answers a thousand at once and so ends none of them for long.
func (o *Outcome) InPart() float64 {
	if o.Size == 0 {
		return 0
	}
	return float64(o.Received) / o.Size / o.Seconds
}

// Event is a line the agents' process prints: Begun and Ended frame the time measured, Results come last.
type Event struct {
	Event   string   `json:"event"`
	Outcome *Outcome `json:"outcome,omitempty"`
}

// The events.
const (
	Begun   = "begun"
	Ended   = "ended"
	Results = "results"
)

// Run runs the agents, and says when the time that is measured begins and ends. Released ends what Hold holds.
func Run(ctx context.Context, spec *Spec, released <-chan struct{}, say func(event string)) (*Outcome, error) {
	transports, err := spec.transports()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, t := range transports {
			t.CloseIdleConnections()
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{spec: spec, checker: newChecker(spec.Objects), stopped: make(chan struct{})}
	var running sync.WaitGroup
	for i := range spec.Tokens {
		running.Go(func() { r.agent(ctx, i, transports[i/max(1, spec.PerConnection)]) })
	}
	if err := r.wait(ctx, spec.WarmUp); err != nil {
		return nil, err
	}
	say(Begun)
	began, received := time.Now(), r.received.Load()
	if err := r.wait(ctx, spec.Measure); err != nil {
		return nil, err
	}
	ended, received := time.Now(), r.received.Load()-received
	say(Ended)
	if spec.Hold {
		select {
		case <-released:
		case <-ctx.Done():
		}
	}
	// What is under way comes to its end, uncounted: an answer that was counted may be the same as one that is not yet.
	close(r.stopped)
	late := time.AfterFunc(drain, cancel)
	defer late.Stop()
	running.Wait()
	outcome := r.outcome(began, ended)
	outcome.Received = received
	return outcome, nil
}

// drain is how long answers under way have to come to their end.
const drain = 3 * time.Second

// transports are one for each connection.
func (s *Spec) transports() ([]*http.Transport, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA) {
		return nil, errors.New("the agents' CA has no certificate")
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if s.Certificate != nil {
		pair, err := tls.X509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return nil, fmt.Errorf("reading the agents' certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	per := max(1, s.PerConnection)
	transports := make([]*http.Transport, (len(s.Tokens)+per-1)/per)
	for i := range transports {
		transports[i] = &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, DisableCompression: true}
	}
	return transports, nil
}

// runner notes what came of every request.
type runner struct {
	spec    *Spec
	checker *checker
	stopped chan struct{} // closed when no more are to begin
	// received counts the bytes of answers as they come.
	received atomic.Int64

	mu       sync.Mutex
	attempts []attempt
}

// attempt is a request that has ended; whether its answer is complete may be known only later.
type attempt struct {
	body  body
	took  time.Duration
	ended time.Time
	err   error
}

func (r *runner) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.stopped:
		return errStopped
	case <-timer.C:
		return nil
	}
}

var errStopped = errors.New("the time is over")

// Back-off after a failure, as client-go's reflector.
const (
	firstBackoff = 800 * time.Millisecond
	maxBackoff   = 30 * time.Second
)

// agent asks, and asks again a period after it began; when it was refused, when it was told to.
func (r *runner) agent(ctx context.Context, i int, transport http.RoundTripper) {
	random := rand.New(rand.NewPCG(uint64(i), 1))
	if r.wait(ctx, time.Duration(random.Float64()*float64(r.spec.Period))) != nil {
		return
	}
	failures := 0
	for ctx.Err() == nil {
		began := time.Now()
		retryAfter, err := r.ask(ctx, transport, i)
		wait := r.spec.Period - time.Since(began)
		switch {
		case err == nil:
			failures = 0
		case retryAfter > 0:
			wait = retryAfter
		default:
			wait = backoff(failures, random)
			failures++
		}
		if r.wait(ctx, wait) != nil {
			return
		}
	}
}

func backoff(failures int, random *rand.Rand) time.Duration {
	wait := min(firstBackoff<<min(failures, 10), maxBackoff)
	return wait + time.Duration(random.Float64()*float64(wait))
}

var errRefused = errors.New("too many requests")

func (r *runner) ask(ctx context.Context, transport http.RoundTripper, i int) (retryAfter time.Duration, err error) {
	began := time.Now()
	got, ended, retryAfter, err := r.try(ctx, transport, i)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts = append(r.attempts, attempt{got, ended.Sub(began), ended, err})
	return retryAfter, err
}

func (r *runner) try(ctx context.Context, transport http.RoundTripper, i int) (got body, ended time.Time, retryAfter time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // client-go's agents would wait as long
	defer cancel()
	request, err := r.spec.request(ctx, i, r.spec.Paths[i%len(r.spec.Paths)])
	if err != nil {
		return got, time.Now(), 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return got, time.Now(), 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		retryAfter, err = refusal(response)
		return got, time.Now(), retryAfter, err
	}
	body := &counted{response.Body, &r.received}
	switch r.spec.Does {
	case WatchOpen:
		return got, time.Now(), 0, nil
	case Patch:
		got.bytes, err = io.Copy(io.Discard, body)
		return got, time.Now(), 0, err
	case WatchList:
		got, err = readInitialEvents(body)
		return got, time.Now(), 0, err
	}
	got, ended, err = r.checker.read(body, response.Header.Get("Content-Encoding") == "gzip")
	return got, ended, 0, err
}

// request is what agent i sends.
func (s *Spec) request(ctx context.Context, i int, path string) (*http.Request, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if s.Does == Patch {
		method, body = http.MethodPatch, strings.NewReader(fmt.Sprintf(`{"data":{"writer":"%d","at":"%d"}}`, i, time.Now().UnixNano()))
	}
	request, err := http.NewRequestWithContext(ctx, method, s.URL+path, body)
	if err != nil {
		return nil, err
	}
	request.Header["User-Agent"] = []string{"telemetry-agent/1.0"}
	request.Header["Accept"] = []string{"application/json"}
	request.Header["Accept-Encoding"] = []string{"gzip"} // as client-go, and by hand so that nothing is unpacked in vain
	if body != nil {
		request.Header["Content-Type"] = []string{"application/merge-patch+json"}
	}
	if token := s.Tokens[i]; token != "" {
		request.Header["Authorization"] = []string{"Bearer " + token}
	}
	return request, nil
}

// refusal is what an answer that is none says: when to come again, and that it was 429 or what else.
func refusal(response *http.Response) (retryAfter time.Duration, err error) {
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		retryAfter = time.Duration(seconds) * time.Second
	}
	if response.StatusCode == http.StatusTooManyRequests {
		return max(retryAfter, time.Second), errRefused
	}
	return retryAfter, errors.New("the answer is " + response.Status)
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// outcome sums up what ended within the time. Only now is it known which answers were complete.
func (r *runner) outcome(from, to time.Time) *Outcome {
	o, latency := &Outcome{Seconds: to.Sub(from).Seconds()}, load.NewHistogram()
	note := func(text string) {
		if o.Err == "" {
			o.Err = text
		}
	}
	var complete, bytes int64
	for _, a := range r.attempts {
		whole, why := r.whole(&a)
		if whole {
			complete++
			bytes += a.body.bytes
		}
		if a.ended.Before(from) || a.ended.After(to) {
			continue
		}
		switch {
		case whole:
			o.Delivered++
			o.Bytes += a.body.bytes
			latency.Add(a.took)
		case errors.Is(a.err, errRefused):
			o.Refused++
		case a.err != nil:
			o.Failed++
			note(a.err.Error())
		default:
			o.Wrong++
			note(fmt.Sprintf("an answer of %d bytes is not complete: %s", a.body.bytes, why))
		}
	}
	if complete > 0 {
		o.Size = float64(bytes) / float64(complete)
	}
	o.P50, o.P99 = latency.Milliseconds(0.5), latency.Milliseconds(0.99)
	return o
}

// whole says whether an answer was complete, and why not.
func (r *runner) whole(a *attempt) (bool, string) {
	switch {
	case a.err != nil:
		return false, a.err.Error()
	case r.spec.Does == WatchOpen, r.spec.Does == Patch:
		return true, ""
	case r.spec.Does == WatchList:
		return a.body.objects == r.spec.Objects, fmt.Sprintf("%d objects instead of %d", a.body.objects, r.spec.Objects)
	}
	return r.checker.complete(a.body)
}
