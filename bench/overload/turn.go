package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
)

// storm is what comes over the control plane, by many clients at once; the zero value is a calm.
type storm struct {
	name string
	// kind is what settings are tuned for.
	kind     agents.Work
	clients  int
	identity lab.Identity
	// period is between the starts of two requests of a client, 0 for as soon as it has an answer.
	period time.Duration
	// warmUp is before anything is counted.
	warmUp        time.Duration
	perConnection int
}

// storms are the cases. Those of one kind follow each other: the first finds the settings of the others.
func storms() []storm {
	lists := func(name string, clients int, id lab.Identity) storm {
		return storm{
			name: fmt.Sprintf("%d %s clients LIST all pods", clients, name), kind: agents.List, clients: clients, identity: id,
			period: 5 * time.Second, warmUp: 5 * time.Second,
		}
	}
	return []storm{
		lists("ordinary", 300, ordinary),
		lists("ordinary", 1000, ordinary),
		lists("exempt", 300, exempt),
		lists("exempt", 1000, exempt),
		{name: fmt.Sprintf("200 clients write %d objects", hotObjects), kind: agents.Patch, clients: 200, identity: ordinary, warmUp: 2 * time.Second},
		{name: "2000 watches are opened and dropped, again and again", kind: agents.WatchOpen, clients: 2000, identity: ordinary, period: time.Second, warmUp: 2 * time.Second, perConnection: 10},
	}
}

// spec is what the storm's clients do by a way.
func (r *rig) spec(ctx context.Context, s storm, url string, measure time.Duration) (*agents.Spec, error) {
	config := r.lab.RESTConfig(s.identity)
	spec := &agents.Spec{
		URL: url, CA: r.ca, Does: s.kind, Tokens: make([]string, s.clients), Certificate: config.CertData, Key: config.KeyData,
		PerConnection: s.perConnection, Period: s.period, WarmUp: s.warmUp, Measure: measure, Hold: true, Objects: r.options.pods,
	}
	switch s.kind {
	case agents.List:
		spec.Paths = []string{"/api/v1/pods"}
	case agents.Patch:
		for i := range hotObjects {
			spec.Paths = append(spec.Paths, "/api/v1/namespaces/"+namespace+"/configmaps/hot-"+strconv.Itoa(i))
		}
	case agents.WatchOpen:
		// From where a client's last watch broke off, as reflectors resume.
		list, err := r.kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("finding where a watch may begin: %w", err)
		}
		spec.Paths = []string{"/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion=" + list.ResourceVersion}
	}
	return spec, nil
}

// reading is what one turn came to.
type reading struct {
	agents.Outcome
	admin *admin
	// made and missed are the nodes' renewals that were due in the time; the slowest that was made took worst.
	made, missed int
	worst        time.Duration
	// idle is the API server's resident memory before, peak the most of it until the end, in bytes.
	idle, peak int64
	// server and proxy are cores used, deaths how often the API server died.
	server, proxy float64
	deaths        int
}

// turn is one contender's turn in one round, with an API server just started. Begun, unless it is nil, is called when the
// time measured begins.
func (r *rig) turn(ctx context.Context, s storm, w *way, during time.Duration, begun func()) (*reading, error) {
	if err := r.begin(ctx, w, r.bounds(r.options.memory)); err != nil {
		return nil, err
	}
	n, err := r.renew(ctx, w.url)
	if err != nil {
		return nil, err
	}
	defer n.stop()
	got := &reading{}
	if got.admin, err = r.engineer(w.url, 0); err != nil {
		return nil, err
	}
	defer got.admin.transport.CloseIdleConnections()
	if _, err := got.admin.once(ctx); err != nil {
		return nil, fmt.Errorf("reading what the engineer reads: %w", err)
	}
	if err := r.calm(ctx); err != nil {
		return nil, err
	}
	if got.idle, err = machine.Resident(r.server.PID()); err != nil {
		return nil, err
	}
	// What starting took is no part of it.
	if err := machine.ForgetPeak(r.server.PID()); err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	peak := r.observePeak(watching)
	deaths := r.server.Restarts()
	if err := r.storm(ctx, s, w, during, n, got, begun); err != nil {
		return nil, err
	}
	stop()
	got.peak, got.deaths = <-peak, r.server.Restarts()-deaths
	return got, nil
}

func (r *rig) bounds(mib int) lab.Bounds { return lab.Bounds{CPU: cores, Memory: int64(mib) << 20} }

// storm lets it come, and measures who else is there meanwhile. The storm goes on until the last of them has an answer or
// has given up.
func (r *rig) storm(ctx context.Context, s storm, w *way, during time.Duration, n *nodes, got *reading, begun func()) error {
	var p *agents.Process
	if s.clients > 0 {
		spec, err := r.spec(ctx, s, w.url, during)
		if err != nil {
			return err
		}
		if p, err = agents.Start(ctx, spec); err != nil {
			return err
		}
		defer p.Stop()
		if _, err := p.Await(agents.Begun); err != nil {
			return err
		}
	}
	if begun != nil {
		begun()
	}
	from := time.Now()
	to := from.Add(during)
	server, _, _ := r.server.Usage()
	proxy := w.used()
	var asking sync.WaitGroup
	asking.Go(func() { got.admin.ask(ctx, during) })
	defer asking.Wait()
	if err := run.Pause(ctx, time.Until(to)); err != nil {
		return err
	}
	after, _, _ := r.server.Usage()
	got.server, got.proxy = (after-server)/time.Since(from).Seconds(), (w.used()-proxy)/time.Since(from).Seconds()
	asking.Wait()
	due := n.due(from, to)
	for {
		got.made, got.missed, got.worst = n.settled(from, to)
		if got.made+got.missed >= due {
			break
		}
		if err := run.Pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if p == nil {
		return nil
	}
	outcome, err := p.Finish()
	if err != nil {
		return err
	}
	got.Outcome = *outcome
	return nil
}

// used is the CPU seconds of what stands between.
func (w *way) used() float64 {
	if w.process == nil {
		return 0
	}
	seconds, _, _ := w.process.Usage()
	return seconds
}

// observePeak looks for the API server's most resident memory, of whichever life of it, until ctx ends.
func (r *rig) observePeak(ctx context.Context) <-chan int64 {
	result := make(chan int64, 1)
	go func() {
		peak := int64(0)
		for {
			if pid := r.server.PID(); pid != 0 {
				if now, err := machine.Peak(pid); err == nil { // or it has just ended
					peak = max(peak, now)
				}
			}
			if !wait(ctx, 50*time.Millisecond) {
				result <- peak
				return
			}
		}
	}()
	return result
}
