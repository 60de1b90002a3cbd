package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

const (
	// tooLong is a hang: a client that waits longer has failed.
	tooLong = 2 * time.Second
	// before is how long writes go on before the fault.
	before = 2 * time.Second
	// A third of the writes for two seconds, of those of ten.
	mostFailed = 7
	// noneAfter is when the last write that fails may be sent.
	noneAfter = 2
)

// faults are what happens between the third API server and its etcd.
var faults = []struct {
	name string
	do   func(r *rig)
}{
	{"its etcd does not answer", func(r *rig) { r.etcd[servers-1].Silence() }},
	{"its etcd refuses", func(r *rig) { r.etcd[servers-1].Refuse() }},
}

// Setup says how it is measured.
func (r *rig) Setup(ctx context.Context) []string {
	return []string{
		"Three API servers, each on its own member of a three-member etcd, as kubeadm's stacked control planes are; the connection of the third to its member passes a relay that is cut: either it swallows everything, or it resets.",
		fmt.Sprintf("%g writes per second are offered, whatever the answers do, from %s before the fault until %s after it; each creates a ConfigMap. One that is not answered within %s has failed.", r.options.writes, before, r.options.window, tooLong),
		"HAProxy " + baseline.HAProxy.Version(ctx) + ": leastconn, GET /readyz every second (500 ms while in doubt), out after two failures, back after two successes.",
		"The gate probes and learns as shipped; its limits are off, because one client offers what many would. Everything shares the machine's CPUs.",
		run.LoadAverage(),
	}
}

// Measure cuts and mends, with each contender in turn.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	for _, fault := range faults {
		if !r.options.Wanted(fault.name) {
			continue
		}
		failed, last := result.Runs{}, result.Runs{}
		err := run.Turns(r.options.Rounds, []string{gateName, haproxyName}, func(contender string) error {
			if err := r.whole(ctx); err != nil {
				return err
			}
			r.say("%s, %s", fault.name, contender)
			o := r.turn(ctx, contender, func() { fault.do(r) })
			r.etcd[servers-1].Restore()
			if o.early > 0 {
				return fmt.Errorf("%d writes through %s failed before anything was broken, the first with: %w", o.early, contender, o.err)
			}
			r.say("%s: %d of %d failed, the last was sent %.2f s after the fault", contender, o.failed, o.offered, o.last.Seconds())
			failed.Add(contender, 100*float64(o.failed)/float64(o.offered))
			last.Add(contender, o.last.Seconds())
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		share := failed.Case("one of three API servers: "+fault.name, "writes that failed, of those offered in 10 s", "%", gateName)
		share.AtMost(mostFailed)
		end := last.Case("one of three API servers: "+fault.name, "after the fault, the last write that failed was sent", "s", gateName)
		end.AtMost(noneAfter)
		for _, c := range []*result.Case{&share, &end} {
			if c.Met != nil && !*c.Met {
				c.Profile = "the gate's log"
			}
		}
		report.Cases = append(report.Cases, share, end)
	}
	if len(report.Missed()) > 0 {
		return r.explain(report)
	}
	return nil
}

// outcome is what a turn met.
type outcome struct {
	offered, failed int
	last            time.Duration // since the fault
	// early counts writes that failed before the fault: whoever has any is not set up well, and nothing is measured.
	early int
	err   error
}

// turn offers writes through a contender and breaks what is to be broken in their midst.
func (r *rig) turn(ctx context.Context, contender string, fault func()) outcome {
	client := r.client()
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var o outcome
	var broken time.Time
	breaking := time.AfterFunc(before, func() {
		fault()
		mu.Lock()
		defer mu.Unlock()
		broken = time.Now()
	})
	defer breaking.Stop()
	load.Open(ctx, r.options.writes, before+r.options.window, func(ctx context.Context, i int) (int64, error) {
		sent := time.Now()
		ctx, cancel := context.WithTimeout(ctx, tooLong)
		defer cancel()
		n, err := r.write(ctx, client, r.urls[contender], i)
		mu.Lock()
		defer mu.Unlock()
		if sent.Sub(broken) >= 0 && !broken.IsZero() {
			o.offered++
		}
		switch {
		case err == nil:
		case broken.IsZero():
			o.early++
			o.err = cmp.Or(o.err, err)
		default: // one that was under way when it broke counts too
			o.failed++
			o.last = max(o.last, sent.Sub(broken))
		}
		return n, err
	})
	return o
}

func (r *rig) write(ctx context.Context, client *http.Client, url string, i int) (int64, error) {
	body := fmt.Sprintf(`{"metadata":{"generateName":"write-%d-"},"data":{"a":"b"}}`, i)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/namespaces/"+namespace+"/configmaps", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+r.token)
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusCreated {
		err = errors.New(response.Status)
	}
	return n, err
}

// whole waits until the third API server is well, and both contenders think so. They find out by requests, so some are
// sent; HAProxy does not tell, and gets a multiple of the time it takes.
func (r *rig) whole(ctx context.Context) error {
	err := run.Until(ctx, time.Minute, door.Answers(r.lab.APIServerURL(servers-1), r.roots))
	if err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	client := r.client()
	defer client.CloseIdleConnections()
	err = run.Until(ctx, 2*time.Minute, func(ctx context.Context) error {
		for i := range 20 {
			if _, err := r.write(ctx, client, r.urls[gateName], i); err != nil {
				return err
			}
		}
		return r.allIn(ctx)
	})
	if err != nil {
		return fmt.Errorf("waiting for the gate to use all API servers: %w", err)
	}
	return run.Pause(ctx, 5*time.Second)
}

// allIn asks the gate whether all of its API servers are in, in both respects.
func (r *rig) allIn(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.metrics+"/metrics", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	in := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "seakeep_gate_upstream_in_ratio{") && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			in++
		}
	}
	if in != 2*servers {
		return fmt.Errorf("%d of %d are in", in, 2*servers)
	}
	return nil
}

// explain keeps what the gate said, which is why it did not do better.
func (r *rig) explain(report *result.Report) error {
	p, ok := r.lab.Process(gateName)
	if !ok {
		return errors.New("the gate is gone")
	}
	data, err := os.ReadFile(p.LogFile())
	if err != nil {
		return fmt.Errorf("reading the gate's log: %w", err)
	}
	if err := r.options.Keep("failover-gate.log", data); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	report.Profiles = append(report.Profiles, result.Profile{
		Name: "the gate's log", File: "failover-gate.log", Top: lines[max(0, len(lines)-30):],
	})
	return nil
}
