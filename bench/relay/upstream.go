package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// upstream is the API server's own count of reads of all pods.
type upstream struct {
	at      time.Time
	elapsed time.Duration // of a difference
	reads   float64       // LISTs and initial events of WatchLists that were answered
	seconds float64       // and how long they took in all
}

func (u upstream) since(first upstream) upstream {
	return upstream{at: u.at, elapsed: u.at.Sub(first.at), reads: u.reads - first.reads, seconds: u.seconds - first.seconds}
}

// perSecond is how many were answered in a second.
func (u upstream) perSecond() float64 { return u.reads / u.elapsed.Seconds() }

// each is how many milliseconds one took.
func (u upstream) each() float64 {
	if u.reads == 0 {
		return 0
	}
	return u.seconds / u.reads * 1000
}

// atATime is how many were under way on average: their rate × how long one took (Little's law).
func (u upstream) atATime() float64 { return u.seconds / u.elapsed.Seconds() }

// scrape reads the API server's metrics.
func (r *rig) scrape(ctx context.Context) (upstream, error) {
	at := time.Now()
	data, err := r.kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return upstream{}, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	u, err := parseUpstream(data)
	u.at = at
	return u, err
}

// parseUpstream sums up what the text says of LISTs and WatchLists of all pods.
func parseUpstream(text []byte) (u upstream, err error) {
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), "{")
		labels, value, closed := strings.Cut(rest, "} ")
		if !ok || !closed || !strings.Contains(labels, `resource="pods"`) || !strings.Contains(labels, `scope="cluster"`) {
			continue
		}
		into := &u.reads
		switch name {
		case "apiserver_request_duration_seconds_sum", "apiserver_request_duration_seconds_count":
			if !strings.Contains(labels, `verb="LIST"`) || !strings.Contains(labels, `subresource=""`) {
				continue
			}
		case "apiserver_watch_list_duration_seconds_sum", "apiserver_watch_list_duration_seconds_count":
		default:
			continue
		}
		if strings.HasSuffix(name, "_sum") {
			into = &u.seconds
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return u, fmt.Errorf("parsing the API server's metrics: %s: %w", name, err)
		}
		*into += v
	}
	return u, nil
}
