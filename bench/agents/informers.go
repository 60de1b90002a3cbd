package agents

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Synced is said by informers each time the last of them has come to be in sync.
const Synced = "synced"

// RunInformers runs agents that LIST once and watch from there, until they are released. An outcome counts their LISTs.
func RunInformers(ctx context.Context, spec *Spec, released <-chan struct{}, say func(event string)) (*Outcome, error) {
	transports, err := spec.transports()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := &informers{spec: spec, say: say}
	began := time.Now()
	var running sync.WaitGroup
	for i := range spec.Tokens {
		running.Go(func() { n.informer(ctx, i, transports[i/max(1, spec.PerConnection)]) })
	}
	select {
	case <-released:
	case <-ctx.Done():
	}
	n.mu.Lock()
	n.outcome.InSync = n.synced
	n.mu.Unlock()
	cancel()
	running.Wait()
	for _, t := range transports {
		t.CloseIdleConnections()
	}
	n.outcome.Seconds = time.Since(began).Seconds()
	return &n.outcome, nil
}

// informers count who is in sync.
type informers struct {
	spec *Spec
	say  func(event string)

	mu      sync.Mutex
	synced  int
	outcome Outcome
}

func (n *informers) sync(by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.synced += by
	if by > 0 && n.synced == len(n.spec.Tokens) {
		n.say(Synced)
	}
}

// listed notes what came of a LIST.
func (n *informers) listed(bytes int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
		n.outcome.Delivered++
		n.outcome.Bytes += bytes
	case errors.Is(err, errRefused):
		n.outcome.Refused++
	default:
		n.outcome.Failed++
		if n.outcome.Err == "" {
			n.outcome.Err = err.Error()
		}
	}
}

// errExpired says that a watch cannot begin where the last one ended.
var errExpired = errors.New("the resource version is too old")

// informer does what client-go's reflector does: after 429, and while nobody listens, it tries the watch again; after any
// other failure it LISTs, not older than what it has; it comes back after 800 ms and longer each time, or as told.
func (n *informers) informer(ctx context.Context, i int, transport http.RoundTripper) {
	random := rand.New(rand.NewPCG(uint64(i), 2))
	pause(ctx, time.Duration(random.Float64()*float64(n.spec.Period)))
	version, known, failures := "0", false, 0
	for ctx.Err() == nil {
		retryAfter, err := time.Duration(0), error(nil)
		if !known {
			var bytes int64
			version, bytes, retryAfter, err = n.list(ctx, transport, i, version)
			if ctx.Err() == nil {
				n.listed(bytes, err)
			}
			known = err == nil
		}
		if err == nil {
			version, retryAfter, err = n.watch(ctx, transport, i, version, func() { failures = 0 })
			switch {
			case errors.Is(err, errExpired):
				version, known = "", false
			case err == nil, errors.Is(err, errRefused), errors.Is(err, syscall.ECONNREFUSED):
			default:
				known = false
			}
		}
		pause(ctx, max(retryAfter, backoff(failures, random)))
		failures++
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// list reads the collection and returns its resource version, or the one it had when that went wrong.
func (n *informers) list(ctx context.Context, transport http.RoundTripper, i int, from string) (version string, read int64, retryAfter time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response, retryAfter, err := n.ask(ctx, transport, i, "resourceVersion="+from)
	if err != nil {
		return from, 0, retryAfter, err
	}
	defer response.Body.Close()
	// The version is among the first bytes; the rest only has to come to its end.
	first, err := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	if err != nil {
		return from, 0, 0, err
	}
	rest, err := io.Copy(io.Discard, response.Body)
	if err != nil {
		return from, 0, 0, err
	}
	read = int64(len(first)) + rest
	if response.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(first))
		if err != nil {
			return from, read, 0, err
		}
		first, _ = io.ReadAll(io.LimitReader(z, 1<<10)) // cut short, which is meant
	}
	if version = firstVersion(first); version == "" {
		return from, read, 0, errors.New("a list has no resource version")
	}
	return version, read, 0, nil
}

// watch is in sync from its answer until it breaks; it returns the last version it has heard of.
func (n *informers) watch(ctx context.Context, transport http.RoundTripper, i int, from string, answered func()) (version string, retryAfter time.Duration, err error) {
	response, retryAfter, err := n.ask(ctx, transport, i, "watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion="+from)
	if err != nil {
		return from, retryAfter, err
	}
	defer response.Body.Close()
	answered()
	n.sync(1)
	defer n.sync(-1)
	return follow(response.Body, from)
}

func (n *informers) ask(ctx context.Context, transport http.RoundTripper, i int, query string) (*http.Response, time.Duration, error) {
	path := n.spec.Paths[i%len(n.spec.Paths)]
	mark := "?"
	if strings.Contains(path, mark) {
		mark = "&"
	}
	request, err := n.spec.request(ctx, i, path+mark+query)
	if err != nil {
		return nil, 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, 0, err
	}
	if response.StatusCode == http.StatusOK {
		return response, 0, nil
	}
	_ = response.Body.Close()
	if response.StatusCode == http.StatusGone {
		return nil, 0, errExpired
	}
	retryAfter, err := refusal(response)
	return nil, retryAfter, err
}

var (
	versionMark = []byte(`"resourceVersion":"`)
	errorMark   = []byte(`{"type":"ERROR"`)
)

// follow reads events until the stream ends or says that it cannot go on.
func follow(body io.Reader, version string) (string, time.Duration, error) {
	buffer := make([]byte, 0, 4<<10)
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)]
		}
		n, err := body.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		for {
			event, rest, ok := bytes.Cut(buffer, []byte("\n"))
			if !ok {
				break
			}
			if bytes.HasPrefix(event, errorMark) {
				return version, 0, errExpired
			}
			if v := firstVersion(event); v != "" {
				version = v
			}
			buffer = buffer[:copy(buffer, rest)]
		}
		if err != nil {
			return version, 0, nil // however a watch broke, it is begun again from where it was
		}
	}
}

// firstVersion is an object's own: its metadata come before all else that has one.
func firstVersion(text []byte) string {
	_, after, _ := bytes.Cut(text, versionMark)
	version, _, ok := bytes.Cut(after, []byte(`"`))
	if !ok {
		return ""
	}
	return string(version)
}
