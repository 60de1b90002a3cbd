package access_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// With the API server hanging or gone, nobody is granted or refused anything, nobody waits long, and a crowd costs the API
// server next to nothing.
func TestAPIServerAway(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	r := open(t, l, v1alpha1.RelayReviews{AuthorizationTTL: ttl(time.Second), TokenTTL: ttl(time.Second)})
	server, _ := l.Process(lab.KindAPIServer)
	// What waits in this process for a server that was started again was not there at the beginning.
	t.Cleanup(func() { check(t, l.Down(context.Background())) })
	token := r.token(r.account())
	agent := func(i int) flow.Caller { return certificate(lab.User("admin@example.com", "agents-"+strconv.Itoa(i))) }
	if allowed, err := r.may(agent(0), allPods); err != nil || !allowed {
		t.Fatalf("allowed %t, %v", allowed, err)
	}

	check(t, server.Signal(syscall.SIGSTOP))
	testkit.Within(t, "every thread of the API server stands still", 10*time.Second, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", server.PID()))
		check(t, err)
		return len(threads) > 0 && !slices.ContainsFunc(threads, func(thread string) bool {
			stat, _ := os.ReadFile(thread)
			_, rest, _ := bytes.Cut(stat, []byte(") "))
			return !bytes.HasPrefix(rest, []byte("T"))
		})
	})
	defer func() { _ = server.Signal(syscall.SIGCONT) }()
	crowd := func(from int) (longest time.Duration, spared int64) {
		t.Helper()
		var group sync.WaitGroup
		var longestNS, sparedCount atomic.Int64
		for i := range 1000 {
			group.Go(func() {
				in, f := request(t, agent(from+i), "", allPods)
				who, err := r.Identify(t.Context(), in, f)
				if err != nil {
					t.Error(err)
					return
				}
				began := time.Now()
				allowed, err := r.Allowed(t.Context(), who, f)
				if allowed || err == nil {
					t.Errorf("allowed %t, %v, by an API server that hangs", allowed, err)
				}
				if errors.Is(err, access.ErrSpared) {
					sparedCount.Add(1)
				}
				for took := int64(time.Since(began)); ; {
					old := longestNS.Load()
					if took <= old || longestNS.CompareAndSwap(old, took) {
						return
					}
				}
			})
		}
		group.Wait()
		return time.Duration(longestNS.Load()), sparedCount.Load()
	}
	longest, spared := crowd(1000)
	t.Logf("1,000 clients of an API server that hangs: the longest waited %s; %d questions were spared it", longest.Round(time.Millisecond), spared)
	if longest > 5*time.Second || spared < 900 {
		t.Errorf("the longest waited %s (want about 3 s) and %d were spared (want ≥ 900)", longest, spared)
	}
	if longest, spared = crowd(2000); longest > 4*time.Second || spared < 999 {
		t.Errorf("the next 1,000: the longest waited %s and %d were spared, want all but the one that tries", longest, spared)
	}
	in, f := request(t, flow.Caller{}, token, allPods)
	began := time.Now()
	if _, err := r.Identify(t.Context(), in, f); err == nil || errors.Is(err, access.ErrUnknown) || time.Since(began) > 5*time.Second {
		t.Errorf("a token at an API server that hangs: %v after %s; want an error that is no refusal", err, time.Since(began))
	}
	// A client that leaves does not wait.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	who, err := r.Identify(ctx, in, f)
	if err == nil {
		t.Errorf("identified %v", who)
	}

	server.Kill()
	began = time.Now()
	if allowed, err := r.may(agent(3000), allPods); allowed || err == nil || time.Since(began) > 4*time.Second {
		t.Errorf("with the API server gone: allowed %t, %v after %s", allowed, err, time.Since(began))
	}
	began = time.Now()
	if allowed, err := r.may(agent(3000), allPods); allowed || err == nil || time.Since(began) > time.Second {
		t.Errorf("asked again: allowed %t, %v after %s; want an error at once", allowed, err, time.Since(began))
	}
	check(t, server.Start(t.Context()))
	testkit.Within(t, "the API server's return is noticed", 10*time.Second, func() bool {
		allowed, err := r.may(agent(0), allPods)
		return err == nil && allowed
	})
	testkit.Within(t, "tokens too", 10*time.Second, func() bool {
		in, f := request(t, flow.Caller{}, token, allPods)
		_, err := r.Identify(t.Context(), in, f)
		return err == nil
	})
}
