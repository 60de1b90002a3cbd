package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// What is watched: one small object, which says when it was due to be written.
const (
	beatName = "beat"
	beatKey  = "at"
	// beatsPerSecond times the watches is the events a proxy passes on in a second.
	beatsPerSecond = 4
	// watchesPerConnection is about what a kubelet or a controller has.
	watchesPerConnection = 50
	openedAtOnce         = 32
	openWithin           = 30 * time.Second
)

const (
	watchFanIn  = "watch fan-in"
	idleWatches = "idle watches"
)

// watchers are open watches through one contender.
type watchers struct {
	clients *clients
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	latency *load.Histogram
	events  atomic.Int64
	broken  atomic.Pointer[error]
}

// watch opens n watches and returns when the API server has answered all of them.
func (r *rig) watch(ctx context.Context, contender string, n int) (*watchers, error) {
	beat, err := r.kube.CoreV1().ConfigMaps(namespace).Get(ctx, beatName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading what is watched: %w", err)
	}
	c, err := r.watchersOf(contender, (n+watchesPerConnection-1)/watchesPerConnection)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(openWithin, cancel)
	defer late.Stop()
	w := &watchers{clients: c, cancel: cancel, latency: load.NewHistogram()}
	path := "/api/v1/namespaces/" + namespace + "/configmaps?watch=true&fieldSelector=metadata.name%3D" + beatName + "&resourceVersion=" + beat.ResourceVersion
	places := make(chan struct{}, openedAtOnce)
	errs := make(chan error, n)
	for i := range n {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			errs <- w.open(ctx, i, path)
		}()
	}
	for range n {
		err = errors.Join(err, <-errs)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("opening %d watches: %w", n, err)
		}
	}
	return w, nil
}

func (w *watchers) open(ctx context.Context, i int, path string) error {
	request, err := w.clients.request(ctx, i, http.MethodGet, path, "application/json", "", nil)
	if err != nil {
		return err
	}
	response, err := w.clients.transports[i%len(w.clients.transports)].RoundTrip(request)
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

// read takes events, one a line, and the time each was due from it, until the stream breaks; it returns why.
func (w *watchers) read(body io.Reader) error {
	line := make([]byte, 0, 1024)
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
			if err := w.event(event, now); err != nil {
				return err
			}
			line = line[:copy(line, rest)]
		}
		if err != nil {
			return err
		}
	}
}

func (w *watchers) event(event []byte, now time.Time) error {
	_, after, ok := bytes.Cut(event, beatMark)
	digits, _, closed := bytes.Cut(after, []byte(`"`))
	if !ok || !closed {
		return fmt.Errorf("an event has no time: %s", event)
	}
	due, err := strconv.ParseInt(string(digits), 10, 64)
	if err != nil {
		return fmt.Errorf("parsing an event's time: %w", err)
	}
	w.mu.Lock()
	w.latency.Add(now.Sub(time.Unix(0, due)))
	w.mu.Unlock()
	w.events.Add(1)
	return nil
}

func (w *watchers) close() {
	w.cancel()
	w.running.Wait()
	w.clients.close()
}

// measureFanIn measures how long events take to reach every watch.
func (r *rig) measureFanIn(ctx context.Context, report *result.Report) error {
	r.say("%s: %d watches", watchFanIn, r.options.watches)
	p50, p99, cpu := result.Runs{}, result.Runs{}, result.Runs{}
	err := run.Turns(r.options.Rounds, r.order, func(contender string) error {
		w, err := r.watch(ctx, contender, r.options.watches)
		if err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		defer w.close()
		if err := run.Pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		before, err := r.used(contender)
		if err != nil {
			return err
		}
		beats := load.Open(ctx, beatsPerSecond, r.options.Turn, r.beat)
		if beats.Failed > 0 {
			return fmt.Errorf("writing what is watched: %w", beats.Err)
		}
		want := beats.Answered * int64(r.options.watches)
		if err := w.await(ctx, want); err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		after, err := r.used(contender)
		if err != nil {
			return err
		}
		p50.Add(contender, w.latency.Milliseconds(0.5))
		p99.Add(contender, w.latency.Milliseconds(0.99))
		if contender != directName {
			cpu.Add(contender, (after.proxy-before.proxy)/float64(want)*1e6)
		}
		return nil
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s, %d watches", watchFanIn, r.options.watches)
	first := p50.Case(name, fmt.Sprintf("event delivered, p50 at %d/s", beatsPerSecond*r.options.watches), "ms", gateName)
	first.Note = fmt.Sprintf("from when the write was due until each watch has the event; %d watches a connection, all of one object, so that every event is a burst.", watchesPerConnection)
	report.Cases = append(report.Cases, first, p99.Case(name, "event delivered, p99", "ms", gateName), cpu.Case(name, "CPU of the proxy per event", "µs", gateName))
	return nil
}

// beat writes the object; always directly, so that the write is the same for all.
func (r *rig) beat(ctx context.Context, _ int) (int64, error) {
	patch := fmt.Appendf(nil, `{"data":{%q:"%d"}}`, beatKey, time.Now().UnixNano())
	_, err := r.kube.CoreV1().ConfigMaps(namespace).Patch(ctx, beatName, types.MergePatchType, patch, metav1.PatchOptions{})
	return 0, err
}

// await waits until the events have come.
func (w *watchers) await(ctx context.Context, want int64) error {
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for w.events.Load() < want {
		if broken := w.broken.Load(); broken != nil {
			return fmt.Errorf("a watch broke: %w", *broken)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return fmt.Errorf("%d of %d events came", w.events.Load(), want)
		case <-tick.C:
		}
	}
	return nil
}

const watchProfile = "memory of the gate with idle watches"

// measureMemory measures what an idle watch costs each proxy: resident memory with the watches less that of the same
// process, just started and warm, without.
func (r *rig) measureMemory(ctx context.Context, report *result.Report) error {
	count := 2 * r.options.watches
	r.say("%s: %d", idleWatches, count)
	resident, inUse := result.Runs{}, result.Runs{}
	rounds := min(3, r.options.Rounds)
	note := ""
	for range rounds {
		for _, contender := range r.order[1:] {
			kib, used, detail, err := r.memoryOf(ctx, contender, count)
			if err != nil {
				return fmt.Errorf("measuring %s through %s: %w", idleWatches, contender, err)
			}
			resident.Add(contender, kib)
			if contender == gateName {
				inUse.Add(contender, used)
				note = detail
			}
		}
	}
	name := fmt.Sprintf("%s, %d", idleWatches, count)
	cases := []result.Case{
		resident.Case(name, "resident memory per watch", "KiB", gateName),
		inUse.Case(name, "heap and stacks in use per watch", "KiB", gateName),
	}
	cases[0].Note = fmt.Sprintf("resident memory (RSS) of the process with the watches, less that of the same process newly started and warm; %d a connection, the gate after a garbage collection.", watchesPerConnection)
	cases[1].Note = "what a new process had resident and not in use hides a part of the growth of its RSS, so the gate is held to this as well. " + note
	for i := range cases {
		if cases[i].AtMost(40); !*cases[i].Met {
			cases[i].Profile = watchProfile
		}
	}
	report.Cases = append(report.Cases, cases...)
	return nil
}

func (r *rig) memoryOf(ctx context.Context, contender string, count int) (kib, used float64, detail string, err error) {
	if err := r.restart(ctx, contender); err != nil {
		return 0, 0, "", err
	}
	warm, err := r.watch(ctx, contender, accounts)
	if err != nil {
		return 0, 0, "", err
	}
	warm.close()
	before, err := r.settled(ctx, contender)
	if err != nil {
		return 0, 0, "", err
	}
	w, err := r.watch(ctx, contender, count)
	if err != nil {
		return 0, 0, "", err
	}
	defer w.close()
	after, err := r.settled(ctx, contender)
	if err != nil {
		return 0, 0, "", err
	}
	if broken := w.broken.Load(); broken != nil {
		return 0, 0, "", fmt.Errorf("a watch broke: %w", *broken)
	}
	per := func(a, b int64) float64 { return float64(a-b) / float64(count) / 1024 }
	if contender == gateName {
		detail = fmt.Sprintf("Of the gate's, %s KiB are heap in use and %s KiB stacks, of %s goroutines a watch.",
			result.Number(per(after.Heap, before.Heap)), result.Number(per(after.Stacks, before.Stacks)),
			result.Number(float64(after.goroutines-before.goroutines)/float64(count)))
		data, err := r.gate.Heap(ctx)
		if err != nil {
			return 0, 0, "", err
		}
		if err := r.options.Keep(heapFile, data); err != nil {
			return 0, 0, "", err
		}
	}
	return per(after.resident, before.resident), per(after.Heap+after.Stacks, before.Heap+before.Stacks), detail, nil
}

// memory is of one moment, in bytes.
type memory struct {
	door.Memory
	goroutines, resident int64
}

// settled is the memory when what is garbage has been collected and given back as far as the process does that.
func (r *rig) settled(ctx context.Context, contender string) (m memory, err error) {
	for range 3 {
		if contender == gateName {
			if m.Memory, err = r.gate.Memory(ctx); err != nil {
				return m, err
			}
			if m.goroutines, err = r.gate.Goroutines(ctx); err != nil {
				return m, err
			}
		}
		if err := run.Pause(ctx, time.Second); err != nil {
			return m, err
		}
	}
	m.resident, err = machine.Resident(r.pid(contender))
	return m, err
}
