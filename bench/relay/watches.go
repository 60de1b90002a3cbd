package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// What is watched: one small object, which says when it was due to be written.
const (
	beatName       = "beat"
	beatKey        = "at"
	beatsPath      = "/api/v1/namespaces/" + namespace + "/configmaps"
	beatPath       = beatsPath + "/" + beatName
	beatsPerSecond = 50
	openedAtOnce   = 32
	openWithin     = 60 * time.Second
)

// delivery is how long events take to reach every watch.
const delivery = "events"

// watchers are open watches through one contender.
type watchers struct {
	transports []*http.Transport
	cancel     context.CancelFunc
	running    sync.WaitGroup

	mu      sync.Mutex
	latency *load.Histogram
	events  atomic.Int64
	broken  atomic.Pointer[error]
}

// watch opens n watches, so many a connection, and returns when all of them were answered.
func (r *rig) watch(ctx context.Context, contender string, n, perConnection int) (*watchers, error) {
	beat, err := r.kube.CoreV1().ConfigMaps(namespace).Get(ctx, beatName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading what is watched: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(openWithin, cancel)
	defer late.Stop()
	w := &watchers{cancel: cancel, latency: load.NewHistogram()}
	for range (n + perConnection - 1) / perConnection {
		w.transports = append(w.transports, door.Transport(r.roots, false))
	}
	url := r.urls[contender] + beatsPath + "?watch=true&allowWatchBookmarks=false&resourceVersion=" + beat.ResourceVersion
	places := make(chan struct{}, openedAtOnce)
	errs := make(chan error, n)
	for i := range n {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			errs <- w.open(ctx, w.transports[i/perConnection], url, r.tokens[i%len(r.tokens)])
		}()
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("opening %d watches: %w", n, err)
	}
	return w, nil
}

func (w *watchers) open(ctx context.Context, transport *http.Transport, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header["User-Agent"] = []string{"telemetry-agent/1.0"}
	request.Header["Accept"] = []string{"application/json"}
	request.Header["Authorization"] = []string{"Bearer " + token}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return errors.New("a watch was answered " + response.Status)
	}
	w.running.Go(func() {
		defer response.Body.Close()
		if err := w.read(response.Body); ctx.Err() == nil {
			w.broken.CompareAndSwap(nil, &err)
		}
	})
	return nil
}

var beatMark = []byte(`"` + beatKey + `":"`)

// read takes events, one a line, and the time each was due from it, until the stream breaks; it returns why. What was
// due later never comes earlier.
func (w *watchers) read(body io.Reader) error {
	line := make([]byte, 0, 2048)
	last := int64(0)
	for {
		if len(line) == cap(line) {
			return errors.New("an event is longer than expected")
		}
		n, err := body.Read(line[len(line):cap(line)])
		now := time.Now()
		line = line[:len(line)+n]
		for {
			event, rest, ok := bytes.Cut(line, []byte("\n"))
			if !ok {
				break
			}
			due, err := parseBeat(event)
			if err != nil {
				return err
			}
			if due <= last {
				return fmt.Errorf("an event came twice or out of order: %d after %d", due, last)
			}
			last = due
			w.mu.Lock()
			w.latency.Add(now.Sub(time.Unix(0, due)))
			w.mu.Unlock()
			w.events.Add(1)
			line = line[:copy(line, rest)]
		}
		if err != nil {
			return err
		}
	}
}

func parseBeat(event []byte) (due int64, err error) {
	_, after, ok := bytes.Cut(event, beatMark)
	digits, _, closed := bytes.Cut(after, []byte(`"`))
	if !ok || !closed {
		return 0, fmt.Errorf("an event has no time: %.200s", event)
	}
	if due, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
		return 0, fmt.Errorf("parsing an event's time: %w", err)
	}
	return due, nil
}

func (w *watchers) close() {
	w.cancel()
	w.running.Wait()
	for _, t := range w.transports {
		t.CloseIdleConnections()
	}
}

// beat writes the object, always directly, so that the write is the same for all. Writes overlap when one is late; each
// has the time it was sent, and one after the other is a beat.
func (r *rig) beat(ctx context.Context, _ int) (int64, error) {
	r.beating.Lock()
	defer r.beating.Unlock()
	patch := fmt.Appendf(nil, `{"data":{%q:"%d"}}`, beatKey, time.Now().UnixNano())
	_, err := r.kube.CoreV1().ConfigMaps(namespace).Patch(ctx, beatName, types.MergePatchType, patch, metav1.PatchOptions{})
	return 0, err
}

// await waits until the events have come.
func (w *watchers) await(ctx context.Context, want int64) error {
	return run.Until(ctx, 20*time.Second, func(context.Context) error {
		if broken := w.broken.Load(); broken != nil {
			return fmt.Errorf("a watch broke: %w", *broken)
		}
		if got := w.events.Load(); got != want {
			return fmt.Errorf("%d of %d events came", got, want)
		}
		return nil
	})
}

// watching is how many watches of what is watched the API server has open.
func (r *rig) watching(ctx context.Context) (float64, error) {
	data, err := r.kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	open := 0.0
	for line := range bytes.Lines(data) {
		labels, value, ok := strings.Cut(string(line), "} ")
		if !ok || !strings.HasPrefix(labels, "apiserver_longrunning_requests{") || !strings.Contains(labels, `verb="WATCH"`) ||
			!strings.Contains(labels, `resource="configmaps"`) || !strings.Contains(labels, `scope="namespace"`) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return 0, fmt.Errorf("parsing the API server's metrics: %w", err)
		}
		open += v
	}
	return open, nil
}

// deliveryTurn is one contender's turn.
func (r *rig) deliveryTurn(ctx context.Context, contender string, during time.Duration, begun func()) (w *watchers, cpu usage, open float64, err error) {
	if err := r.calm(ctx); err != nil {
		return nil, cpu, 0, err
	}
	others, err := r.watching(ctx) // the API server has watches of its own
	if err != nil {
		return nil, cpu, 0, err
	}
	if w, err = r.watch(ctx, contender, r.options.watches, 1); err != nil {
		return nil, cpu, 0, err
	}
	defer w.close()
	if open, err = r.watching(ctx); err != nil {
		return nil, cpu, 0, err
	}
	open -= others
	if err := run.Pause(ctx, 500*time.Millisecond); err != nil {
		return nil, cpu, 0, err
	}
	if begun != nil {
		begun()
	}
	before, err := r.used(contender)
	if err != nil {
		return nil, cpu, 0, err
	}
	beats := load.Open(ctx, beatsPerSecond, during, r.beat)
	if beats.Failed > 0 {
		return nil, cpu, 0, fmt.Errorf("writing what is watched: %w", beats.Err)
	}
	if err := w.await(ctx, beats.Answered*int64(r.options.watches)); err != nil {
		return nil, cpu, 0, err
	}
	after, err := r.used(contender)
	return w, usage{after.proxy - before.proxy, after.server - before.server}, open, err
}

func (r *rig) measureDelivery(ctx context.Context, report *result.Report) error {
	name := fmt.Sprintf("%s to %d watches, %d a second", delivery, r.options.watches, beatsPerSecond)
	if !r.options.Wanted(name) {
		return nil
	}
	r.say("%s", name)
	p50, p99, proxy, server, upstream := result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}
	err := run.Turns(max(3, r.options.Rounds), []string{directName, gateName}, func(contender string) error {
		w, cpu, open, err := r.deliveryTurn(ctx, contender, r.options.Turn, nil)
		if err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		events := float64(w.events.Load())
		p50.Add(contender, w.latency.Milliseconds(0.5))
		p99.Add(contender, w.latency.Milliseconds(0.99))
		upstream.Add(contender, open)
		server.Add(contender, cpu.server/events*1e6)
		if contender != directName {
			proxy.Add(contender, cpu.proxy/events*1e6)
		}
		return nil
	})
	if err != nil {
		return err
	}
	cases := []result.Case{
		p50.Case(name, "delivered, p50", "ms", gateName),
		p99.Case(name, "delivered, p99", "ms", gateName),
		p99.Case(name, "delivered, p99, held to direct", "ms", gateName),
		upstream.Case(name, "watches open at the API server", "watches", gateName),
		server.Case(name, "CPU of the API server per delivered event, the write included", "µs", gateName),
		proxy.Case(name, "CPU of the proxy per delivered event", "µs", gateName),
	}
	cases[0].Note = "from when the write was sent until each watch has the event, the write's own time included; a connection and a token each. Every watch got every event once and in order."
	cases[1].AtMost(20)
	cases[2].AtMostAbove(p99, gateName, directName, 0)
	cases[3].AtMost(1)
	if missed(cases) {
		profile := "CPU of the gate, " + name
		for i := range cases {
			if c := &cases[i]; c.Met != nil && !*c.Met {
				c.Profile = profile
			}
		}
		err := r.profile(ctx, report, profile, func(begun func()) error {
			_, _, _, err := r.deliveryTurn(ctx, gateName, profiled+time.Second, begun)
			return err
		})
		if err != nil {
			return err
		}
	}
	report.Cases = append(report.Cases, cases...)
	return nil
}
