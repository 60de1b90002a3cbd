package agents

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxRetries of one request that is answered with Retry-After, as client-go's.
	maxRetries = 10
	// Back-off after an error, as client-go's reflector: doubled up to the maximum, with as much jitter as wait.
	firstBackoff = 800 * time.Millisecond
	maxBackoff   = 30 * time.Second
	// requestTimeout ends a request that an overloaded server never answers.
	requestTimeout = time.Minute
)

// initialEventsEnd is in the bookmark that ends the initial events of a WatchList, in JSON and protobuf alike.
var initialEventsEnd = []byte("k8s.io/initial-events-end")

// errThrottled is a request that was refused with 429 until retries were used up.
var errThrottled = errors.New("throttled")

// tokens returns a ServiceAccount token; fresh asks for a new one, because the last was refused.
type tokens func(ctx context.Context, fresh bool) (string, error)

// agent is one pod's program.
type agent struct {
	behaviour Behaviour
	url       string
	header    http.Header
	token     tokens
	client    *http.Client
	metrics   *Metrics
	random    *rand.Rand
	randomMu  sync.Mutex
	// open are the watches that it leaked and, ended, waits for; opened is how many there were.
	open   sync.WaitGroup
	opened atomic.Int64
}

// newTransport has a connection of its own: agents on different nodes share none. local is where it comes from; nil: anywhere.
func newTransport(roots *x509.CertPool, local net.Addr) *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, LocalAddr: local}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // Behaviour.header asks for it by hand
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
		MaxIdleConnsPerHost:   1,
	}
}

// run makes the agent's requests until the context ends.
func (a *agent) run(ctx context.Context) {
	defer a.client.CloseIdleConnections()
	defer a.open.Wait()
	var burst sync.WaitGroup // and the other loops
	for range a.behaviour.Burst - 1 {
		burst.Go(func() { _ = a.request(ctx) })
	}
	defer burst.Wait()
	for range a.behaviour.Parallel - 1 {
		burst.Go(func() { a.loop(ctx) })
	}
	a.loop(ctx)
}

// loop makes a request each period.
func (a *agent) loop(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		began := time.Now()
		if err := a.request(ctx); err != nil {
			wait := min(firstBackoff<<min(failures, 10), maxBackoff)
			failures++
			sleep(ctx, wait+a.jitter(wait, 1))
			continue
		}
		failures = 0
		period := a.behaviour.Period
		sleep(ctx, period+a.jitter(period, a.behaviour.Jitter)-time.Since(began))
	}
}

func (a *agent) jitter(d time.Duration, ratio float64) time.Duration {
	a.randomMu.Lock()
	defer a.randomMu.Unlock()
	return time.Duration(float64(d) * ratio * a.random.Float64())
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// request makes one request, retried as client-go would, and counts each answer.
func (a *agent) request(ctx context.Context) error {
	refreshed := false
	for retry := 0; ; retry++ {
		status, retryAfter, err := a.try(ctx, refreshed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			a.metrics.requests.WithLabelValues(resultError).Inc()
			return err
		case status == http.StatusOK:
			a.metrics.requests.WithLabelValues(resultOK).Inc()
			return nil
		case status == http.StatusTooManyRequests:
			a.metrics.requests.WithLabelValues(resultThrottled).Inc()
			err = errThrottled
		default:
			a.metrics.requests.WithLabelValues(resultError).Inc()
			err = fmt.Errorf("status %d", status)
		}
		if status == http.StatusUnauthorized && !refreshed {
			refreshed = true
			continue
		}
		if retry >= maxRetries || retryAfter <= 0 || (status != http.StatusTooManyRequests && status < 500) {
			return err
		}
		sleep(ctx, retryAfter)
	}
}

// try makes one attempt. It reads the answer's body and throws it away.
func (a *agent) try(ctx context.Context, freshToken bool) (status int, retryAfter time.Duration, err error) {
	token, err := a.token(ctx, freshToken)
	if err != nil {
		return 0, 0, fmt.Errorf("fetching token: %w", err)
	}
	if a.behaviour.Verb == VerbLeak {
		if a.opened.Add(1) > maxLeaked {
			return http.StatusOK, 0, nil
		}
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout+a.behaviour.Period)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url, nil)
	if err != nil {
		return 0, 0, err
	}
	req.Header = a.header.Clone()
	req.Header.Set("Authorization", "Bearer "+token)
	began := time.Now()
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	if resp.StatusCode == http.StatusOK && a.behaviour.Verb == VerbLeak {
		a.open.Go(func() {
			defer resp.Body.Close()
			n, _, _ := a.discard(resp.Body)
			a.metrics.bytes.Add(float64(n))
		})
		return resp.StatusCode, 0, nil
	}
	defer resp.Body.Close()
	n, complete, err := a.discard(resp.Body)
	a.metrics.bytes.Add(float64(n))
	if resp.StatusCode == http.StatusOK && a.behaviour.Verb != VerbWatchList {
		a.metrics.duration.Observe(time.Since(began).Seconds())
	}
	if resp.StatusCode == http.StatusOK && a.behaviour.Verb == VerbWatchList && !complete {
		return 0, 0, errors.Join(errors.New("the watch ended before its initial events did"), err)
	}
	if err != nil && !(a.behaviour.Verb == VerbWatchList && complete) {
		return 0, 0, fmt.Errorf("reading answer: %w", err)
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		retryAfter = max(time.Duration(seconds)*time.Second, time.Millisecond)
	}
	return resp.StatusCode, retryAfter, nil
}

// buffers are shared by all agents: a thousand answers are read at once, and none is kept.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// discard reads to the end, and says whether the mark that ends a WatchList's initial events was seen.
func (a *agent) discard(body io.Reader) (n int64, complete bool, err error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	// The mark may be cut by a read: the last bytes of the one before stay in front.
	keep, kept := len(initialEventsEnd)-1, 0
	for {
		r, err := body.Read((*buffer)[kept:])
		n += int64(r)
		if a.behaviour.Verb == VerbWatchList && !complete {
			seen := (*buffer)[:kept+r]
			complete = bytes.Contains(seen, initialEventsEnd)
			kept = copy(*buffer, seen[max(0, len(seen)-keep):])
		}
		if errors.Is(err, io.EOF) {
			return n, complete, nil
		}
		if err != nil {
			return n, complete, err
		}
	}
}
