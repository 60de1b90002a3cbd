package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/lab"
)

const (
	// renewEvery is a kubelet's: a quarter of what a lease lasts.
	renewEvery = 10 * time.Second
	leaseFor   = 40 // seconds
	// retryAfter is how soon a renewal that failed is tried again, unless the answer says when.
	retryAfter = 200 * time.Millisecond
)

// renewal is one that was due.
type renewal struct {
	due  time.Time
	took time.Duration // until it was made; missed: it was not made before the next was due
	made bool
}

// nodes renew their leases as kubelets do: each with a certificate and a connection of its own, one every ten seconds.
type nodes struct {
	url    string
	cancel context.CancelFunc
	going  sync.WaitGroup
	first  []time.Time // by node

	mu       sync.Mutex
	renewals []renewal
}

// renew begins, with the first renewals spread over the next ten seconds.
func (r *rig) renew(ctx context.Context, url string) (*nodes, error) {
	list, err := r.kube.CoordinationV1().Leases(leaseNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	leases := map[string]*coordinationv1.Lease{}
	for i := range list.Items {
		leases[list.Items[i].Name] = &list.Items[i]
	}
	ctx, cancel := context.WithCancel(ctx)
	n := &nodes{url: url, cancel: cancel}
	began := time.Now()
	for i := range r.options.nodes {
		name := lab.NodeName(i)
		transport, err := r.transport(lab.Node(name))
		if err != nil || leases[name] == nil {
			n.stop()
			return nil, fmt.Errorf("beginning to renew the lease of %s: %w", name, err)
		}
		first := began.Add(renewEvery * time.Duration(i) / time.Duration(r.options.nodes))
		n.first = append(n.first, first)
		n.going.Go(func() {
			defer transport.CloseIdleConnections()
			n.node(ctx, transport, leases[name], first)
		})
	}
	return n, nil
}

// stop ends them.
func (n *nodes) stop() {
	n.cancel()
	n.going.Wait()
}

// node renews one lease, each time from when it is due until the next is.
func (n *nodes) node(ctx context.Context, transport http.RoundTripper, lease *coordinationv1.Lease, due time.Time) {
	for ; wait(ctx, time.Until(due)); due = due.Add(renewEvery) {
		until, cancel := context.WithDeadline(ctx, due.Add(renewEvery))
		made := n.once(until, transport, lease)
		cancel()
		if !made && ctx.Err() != nil {
			return // the end is nobody's fault
		}
		n.mu.Lock()
		n.renewals = append(n.renewals, renewal{due, time.Since(due), made})
		n.mu.Unlock()
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// once tries until the lease is renewed or the time is over.
func (n *nodes) once(ctx context.Context, transport http.RoundTripper, lease *coordinationv1.Lease) (made bool) {
	for {
		again, err := n.put(ctx, transport, lease)
		if err == nil {
			return true
		}
		if !wait(ctx, again) {
			return false
		}
	}
}

// put renews the lease; on a conflict, which follows a renewal whose answer was lost, it is read again first.
func (n *nodes) put(ctx context.Context, transport http.RoundTripper, lease *coordinationv1.Lease) (again time.Duration, err error) {
	name := lease.Name
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: new(int32(leaseFor)), RenewTime: &metav1.MicroTime{Time: time.Now()}}
	lease.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	body, err := json.Marshal(lease)
	if err != nil {
		return retryAfter, err
	}
	code, again, err := n.exchange(ctx, transport, http.MethodPut, lease, body)
	if err == nil && code == http.StatusConflict {
		if code, again, err = n.exchange(ctx, transport, http.MethodGet, lease, nil); err == nil {
			return 0, fmt.Errorf("answered %d", http.StatusConflict)
		}
	}
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("answered %d", code)
	}
	return again, err
}

func (n *nodes) exchange(ctx context.Context, transport http.RoundTripper, method string, lease *coordinationv1.Lease, body []byte) (code int, again time.Duration, err error) {
	url := n.url + "/apis/coordination.k8s.io/v1/namespaces/" + leaseNamespace + "/leases/" + lease.Name
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, retryAfter, err
	}
	request.Header["User-Agent"] = []string{"kubelet/v1.36.3"}
	request.Header["Content-Type"], request.Header["Accept"] = []string{"application/json"}, []string{"application/json"}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, retryAfter, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode == http.StatusOK {
		*lease = coordinationv1.Lease{}
		err = json.Unmarshal(answer, lease)
	}
	return response.StatusCode, told(response), err
}

// told is when the answer says to come again.
func told(response *http.Response) time.Duration {
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	return retryAfter
}

// due are how many renewals are due in a time.
func (n *nodes) due(from, to time.Time) (count int) {
	for _, first := range n.first {
		at := first
		if late := from.Sub(first); late > 0 {
			at = first.Add((late + renewEvery - 1) / renewEvery * renewEvery)
		}
		for ; at.Before(to); at = at.Add(renewEvery) {
			count++
		}
	}
	return count
}

// settled are the renewals that were due in a time and have come to their end, and how long the slowest took.
func (n *nodes) settled(from, to time.Time) (made, missed int, worst time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.renewals {
		switch {
		case r.due.Before(from) || !r.due.Before(to):
		case r.made:
			made++
			worst = max(worst, r.took)
		default:
			missed++
		}
	}
	return made, missed, worst
}
