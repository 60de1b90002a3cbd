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

	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/lab"
)

const (
	adminPerSecond = 20
	// patience is an engineer's; what has failed or was not answered then counts as this long.
	patience   = 10 * time.Second
	probedName = "probed"
	probedPath = "/api/v1/namespaces/" + namespace + "/configmaps/" + probedName
)

// admin is an engineer who reads a small object again and again: cluster-admin by RBAC, exempt from nothing, with a
// connection of his own that is kept, and kubectl's manners: after 429 he comes again when told.
type admin struct {
	url       string
	transport *http.Transport

	mu      sync.Mutex
	latency *load.Histogram
	asked   int
	failed  int // or answered too late
	err     error
	// bad is when the last request came to its end that failed or took longer than well.
	bad  time.Time
	well time.Duration
}

// engineer comes by a way. Well is the longest that an answer of a control plane that is well takes.
func (r *rig) engineer(url string, well time.Duration) (*admin, error) {
	transport, err := r.transport(lab.Admin)
	if err != nil {
		return nil, err
	}
	return &admin{url: url, transport: transport, latency: load.NewHistogram(), well: well}, nil
}

// ask asks at a constant rate for a time and returns when all answers are there or given up.
func (a *admin) ask(ctx context.Context, during time.Duration) {
	load.Open(ctx, adminPerSecond, during, func(ctx context.Context, _ int) (int64, error) {
		began := time.Now()
		err := a.get(ctx, began.Add(patience))
		took := time.Since(began)
		if err != nil {
			took = patience
		}
		if ctx.Err() == nil {
			a.note(took, err)
		}
		return 0, err
	})
}

func (a *admin) note(took time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	a.latency.Add(took)
	if err != nil {
		a.failed++
		if a.err == nil {
			a.err = err
		}
	}
	if took > a.well {
		a.bad = time.Now()
	}
}

// lastBad is when the engineer last had to wait.
func (a *admin) lastBad() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bad
}

var errTooMany = errors.New("429 Too Many Requests")

// get reads the object, as often as it is told to come again before the deadline.
func (a *admin) get(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	for {
		again, err := a.once(ctx)
		if err == nil || !errors.Is(err, errTooMany) || !wait(ctx, again) {
			return err
		}
	}
}

func (a *admin) once(ctx context.Context) (again time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+probedPath, nil)
	if err != nil {
		return 0, err
	}
	request.Header["User-Agent"] = []string{"kubectl/v1.36.3"}
	request.Header["Accept"] = []string{"application/json"}
	response, err := a.transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return 0, err
	case response.StatusCode == http.StatusTooManyRequests:
		return told(response), errTooMany
	case response.StatusCode != http.StatusOK || json.Unmarshal(body, &corev1.ConfigMap{}) != nil:
		return 0, fmt.Errorf("the answer is %s: %.100s", response.Status, body)
	}
	return 0, nil
}
