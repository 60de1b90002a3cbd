package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/gate/relay"
)

const (
	// topFrames are enough to see where the time goes.
	topFrames = 30
	// profiled is how long a profile is taken.
	profiled = 8 * time.Second
)

func cpuProfile(s sharing) string { return "CPU of the gate, " + s.name() }

// ask asks the gate's admin endpoint.
func (r *rig) ask(ctx context.Context, path string) ([]byte, error) {
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

func (r *rig) status(ctx context.Context) (*relay.Status, error) {
	data, err := r.ask(ctx, "/v1/relay")
	if err != nil {
		return nil, err
	}
	status := &relay.Status{}
	if err := json.Unmarshal(data, status); err != nil {
		return nil, fmt.Errorf("reading the relay's status: %w", err)
	}
	return status, nil
}

// note says what the gate did not share, if anything.
func (r *rig) note(ctx context.Context, n *numbers) error {
	status, err := r.status(ctx)
	if err != nil || len(status.Forwarded) == 0 {
		return err
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(status.Forwarded)) {
		if count := status.Forwarded[reason]; count > 0 {
			parts = append(parts, fmt.Sprintf("%d (%s)", count, reason))
		}
	}
	if len(parts) > 0 {
		n.notes = append(n.notes, fmt.Sprintf("The gate shared %d answers and forwarded %s.", status.Total.Answers, strings.Join(parts, ", ")))
	}
	return nil
}

func missed(cases []result.Case) bool {
	return slices.ContainsFunc(cases, func(c result.Case) bool { return c.Met != nil && !*c.Met })
}

// explain takes the gate's CPU profile when a target of the case was missed, in a turn of its own, because profiling
// costs.
func (r *rig) explain(ctx context.Context, report *result.Report, s sharing, cases []result.Case) error {
	if !missed(cases) {
		return nil
	}
	return r.profile(ctx, report, cpuProfile(s), func(begun func()) error {
		_, err := r.turn(ctx, s, gateName, profiled+time.Second, begun)
		return err
	})
}

// profile profiles the gate while load runs, from when it says that it has begun.
func (r *rig) profile(ctx context.Context, report *result.Report, name string, load func(begun func()) error) error {
	r.say("profiling the gate, because a target was missed")
	type answer struct {
		data []byte
		err  error
	}
	got := make(chan answer, 1)
	err := load(func() {
		go func() {
			data, err := r.ask(ctx, "/debug/pprof/profile?seconds="+strconv.Itoa(int(profiled.Seconds())))
			got <- answer{data, err}
		}()
	})
	if err != nil {
		return err
	}
	a := <-got
	if a.err != nil {
		return fmt.Errorf("profiling: %w", a.err)
	}
	return r.keep(ctx, report, name, fmt.Sprintf("relay-%d.pprof", len(report.Profiles)+1), a.data)
}

// keep adds a profile to the report.
func (r *rig) keep(ctx context.Context, report *result.Report, name, file string, data []byte, more ...string) error {
	if err := r.options.Keep(file, data); err != nil {
		return err
	}
	profile, err := r.options.Top(ctx, name, file, topFrames, more...)
	if err == nil {
		report.Profiles = append(report.Profiles, profile)
	}
	return err
}
