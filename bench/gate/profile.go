package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/seakeep/seakeep/bench/result"
)

const (
	cpuFile  = "gate-get.pprof"
	heapFile = "gate-watches.pprof"
	// topFrames are enough to see where the time goes.
	topFrames = 25
)

// admin asks the gate's admin endpoint.
func (r *rig) admin(ctx context.Context, path string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", r.socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the gate's admin endpoint: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking the gate's admin endpoint for %s: %s", path, response.Status)
	}
	return body, err
}

// gateMemory collects the gate's garbage and reads what is left.
func (r *rig) gateMemory(ctx context.Context) (m memory, err error) {
	text, err := r.admin(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return m, err
	}
	m.heap, m.stacks = memStat(string(text), "HeapInuse"), memStat(string(text), "Stack")
	if text, err = r.admin(ctx, "/debug/pprof/goroutine?debug=1"); err != nil {
		return m, err
	}
	_, total, _ := strings.Cut(string(text), "total ")
	total, _, _ = strings.Cut(total, "\n")
	m.goroutines, err = strconv.ParseInt(total, 10, 64)
	return m, err
}

// memStat finds "# name = value" among the runtime's statistics.
func memStat(text, name string) int64 {
	_, after, _ := strings.Cut(text, "# "+name+" = ")
	end := strings.IndexAny(after, " \n")
	if end < 0 {
		return 0
	}
	v, err := strconv.ParseInt(after[:end], 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// keepHeap writes the heap profile while the watches are open.
func (r *rig) keepHeap(ctx context.Context) error {
	data, err := r.admin(ctx, "/debug/pprof/heap?gc=1")
	if err != nil {
		return err
	}
	return r.options.Keep(heapFile, data)
}

// explain takes the gate's CPU profile in turns of its own, because profiling costs, and adds the profiles that
// explain a missed target.
func (r *rig) explain(ctx context.Context, report *result.Report) error {
	needed := map[string]bool{}
	for _, c := range report.Missed() {
		needed[c.Profile] = true
	}
	if needed[getProfile] {
		r.say("profiling the gate, because a target was missed")
		if err := r.profileGET(ctx); err != nil {
			return err
		}
		profile, err := r.options.Top(ctx, getProfile, cpuFile, topFrames)
		if err != nil {
			return err
		}
		report.Profiles = append(report.Profiles, profile)
	}
	if needed[watchProfile] {
		profile, err := r.options.Top(ctx, watchProfile, heapFile, topFrames, "-sample_index=inuse_space")
		if err != nil {
			return err
		}
		report.Profiles = append(report.Profiles, profile)
	}
	return nil
}

func (r *rig) profileGET(ctx context.Context) error {
	type answer struct {
		data []byte
		err  error
	}
	const seconds = 10
	got := make(chan answer, 1)
	go func() {
		data, err := r.admin(ctx, "/debug/pprof/profile?seconds="+strconv.Itoa(seconds))
		got <- answer{data, err}
	}()
	if _, err := r.turn(ctx, r.workloads()[0], gateName, (seconds+1)*time.Second, newNumbers()); err != nil {
		return err
	}
	a := <-got
	if a.err != nil {
		return a.err
	}
	return r.options.Keep(cpuFile, a.data)
}
