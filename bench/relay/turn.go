package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/machine"
)

const (
	period = 5 * time.Second // of an agent
	// warmUp is how long agents run before they are measured; where they saturate, until all of them are there and the
	// first have come again, and then each answer takes long, so that more is measured.
	warmUp          = 3 * time.Second
	warmUpSaturated = 7 * time.Second
	saturatedTurns  = 2 // a turn there is so many turns long
	writesPerSecond = 5
	adminPerSecond  = 20
	adminPatience   = 10 * time.Second
	listPath        = "/api/v1/pods"
	watchListPath   = listPath + "?allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeoutSeconds=60&watch=true"
)

// sharing is one case: so many agents read all pods of a cluster.
type sharing struct {
	agents, pods int
	watchList    bool
	// saturates: more is asked for than any contender delivers.
	saturates bool
	// path and objects are of another collection than all pods, if set.
	path    string
	objects int
}

// times are how long agents run before they are measured, and how long that is.
func (s sharing) times(turn time.Duration) (before, measured time.Duration) {
	if s.saturates {
		return warmUpSaturated, saturatedTurns * turn
	}
	return warmUp, turn
}

func (s sharing) kind() string {
	if s.watchList {
		return "WatchList reconnects"
	}
	return "LIST"
}

func (s sharing) name() string {
	return fmt.Sprintf("%s, %d agents, %d pods", s.kind(), s.agents, s.pods)
}

// reading is what one turn came to.
type reading struct {
	agents.Outcome
	admin    *load.Result
	upstream upstream // the API server's own count over the time measured
	cpu      usage
	// peak is the proxy's resident memory at most, less that of the process just started, in bytes.
	peak int64
}

// turn is one contender's turn in one round. Begun, unless it is nil, is called when the time measured begins.
func (r *rig) turn(ctx context.Context, s sharing, contender string, turn time.Duration, begun func()) (*reading, error) {
	before, during := s.times(turn)
	if err := r.calm(ctx); err != nil {
		return nil, err
	}
	idle, err := r.restart(ctx, contender)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	objects := s.objects
	if objects == 0 {
		if objects, err = r.count(ctx); err != nil {
			return nil, err
		}
	}
	w, err := r.write(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { w.stop() }()
	spec := agents.Spec{
		URL: r.urls[contender], CA: r.ca, Does: agents.List, Paths: []string{listPath}, Tokens: r.tokens[:s.agents],
		Period: period, WarmUp: before, Measure: during, Objects: objects,
	}
	switch {
	case s.path != "":
		spec.Paths = []string{s.path}
	case s.watchList:
		spec.Does, spec.Paths = agents.WatchList, []string{watchListPath}
	}
	p, err := agents.Start(ctx, &spec)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	got, err := r.observe(ctx, p, contender, during, begun)
	if err != nil {
		return nil, err
	}
	if contender != directName {
		peak, err := machine.Peak(r.pid(contender))
		if err != nil {
			return nil, err
		}
		got.peak = peak - idle
	}
	if err := w.stop(); err != nil {
		return nil, err
	}
	return got, nil
}

// observe takes the numbers at the beginning and at the end of the time that the agents measure.
func (r *rig) observe(ctx context.Context, p *agents.Process, contender string, during time.Duration, begun func()) (*reading, error) {
	got := &reading{}
	if _, err := p.Await(agents.Begun); err != nil {
		return nil, err
	}
	if begun != nil {
		begun()
	}
	before, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	var asking sync.WaitGroup
	asking.Go(func() { got.admin = load.Open(ctx, adminPerSecond, during, r.adminDo(contender)) })
	defer asking.Wait()
	first, err := r.scrape(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := p.Await(agents.Ended); err != nil {
		return nil, err
	}
	after, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	last, err := r.scrape(ctx)
	if err != nil {
		return nil, err
	}
	asking.Wait()
	got.upstream = last.since(first)
	got.cpu = usage{after.proxy - before.proxy, after.server - before.server}
	outcome, err := p.Await(agents.Results)
	if err != nil {
		return nil, err
	}
	got.Outcome = *outcome
	return got, nil
}

// count is how many pods there are, by the API server's own word.
func (r *rig) count(ctx context.Context) (int, error) {
	list, err := r.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("counting pods: %w", err)
	}
	return len(list.Items), nil
}

// adminDo reads a small object by the same way as the agents.
func (r *rig) adminDo(contender string) load.Do {
	transport := door.Transport(r.roots, false)
	return func(ctx context.Context, _ int) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, adminPatience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.urls[contender]+beatPath, nil)
		if err != nil {
			return 0, err
		}
		request.Header.Set("Authorization", "Bearer "+r.admin)
		request.Header.Set("Accept", "application/json")
		response, err := transport.RoundTrip(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != http.StatusOK || json.Unmarshal(body, &corev1.ConfigMap{}) != nil) {
			err = fmt.Errorf("the answer is %s: %.100s", response.Status, body)
		}
		return int64(len(body)), err
	}
}

// writer writes one pod again and again, always directly: no two LISTs are of the same state for long.
type writer struct {
	cancel  context.CancelFunc
	done    chan struct{}
	written int
	err     error
}

func (r *rig) write(ctx context.Context) (*writer, error) {
	list, err := r.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, fmt.Errorf("finding a pod to write: %w", err)
	}
	pod := &list.Items[0]
	ctx, cancel := context.WithCancel(ctx)
	w := &writer{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		ticks := time.NewTicker(time.Second / writesPerSecond)
		defer ticks.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"bench":"%d"}}}`, time.Now().UnixNano())
			if _, err := r.kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err == nil {
				w.written++
			} else if ctx.Err() == nil {
				w.err = err // an overloaded API server may refuse some
			}
		}
	}()
	return w, nil
}

func (w *writer) stop() error {
	w.cancel()
	<-w.done
	if w.written == 0 {
		return fmt.Errorf("no pod could be written: %w", errors.Join(w.err))
	}
	return nil
}
