package component

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

// replica is a component that gets ready after a time, or never.
type replica struct {
	drill.Component
	name  string
	ready time.Duration // 0: never
	did   *[]string
	began time.Time
}

func (r *replica) Name() string { return r.name }

func (r *replica) Restart(context.Context) error {
	*r.did = append(*r.did, r.name+" restarted "+time.Since(r.began).String())
	return nil
}

func (r *replica) AwaitReady(ctx context.Context) error {
	var ready <-chan time.Time
	if r.ready > 0 {
		ready = time.After(r.ready)
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type target struct {
	drill.Target
	components []drill.Component
}

func (t target) Components() []drill.Component { return t.components }

func TestRollingRestart(t *testing.T) {
	tests := map[string]struct {
		first  time.Duration
		within time.Duration
		want   []string
	}{
		"ready in time":  {400 * time.Millisecond, time.Second, []string{"dns restarted 0s", "dns-1 restarted 400ms"}},
		"never ready":    {0, time.Second, []string{"dns restarted 0s", "dns-1 restarted 1s"}},
		"nobody waits":   {0, 0, []string{"dns restarted 0s", "dns-1 restarted 0s"}},
		"later than all": {time.Minute, 3 * time.Second, []string{"dns restarted 0s", "dns-1 restarted 3s"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var did []string
				began := time.Now()
				components := []drill.Component{
					&replica{name: "dns", ready: tc.first, did: &did, began: began}, &replica{name: "etcd", did: &did, began: began},
					&replica{name: "dns-1", ready: time.Millisecond, did: &did, began: began}, &replica{name: "dns-cache", did: &did, began: began},
				}
				a, err := New(v1alpha1.ComponentAction{Name: "dns", Op: v1alpha1.ComponentRestart, ReadyWithin: metav1.Duration{Duration: tc.within}},
					drill.Env{Target: target{components: components}})
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Do(t.Context()); err != nil {
					t.Errorf("a replica that is not ready is a failure of the action: %v", err)
				}
				if !slices.Equal(did, tc.want) {
					t.Errorf("got %q, want %q", did, tc.want)
				}
			})
		})
	}
}
