package gatetest

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// State is the goroutines and descriptors of this process at one moment.
type State struct {
	goroutines  goleak.Option
	descriptors map[string]string // number: what it is
}

// Snapshot notes what there is now.
func Snapshot() State {
	return State{goroutines: goleak.IgnoreCurrent(), descriptors: descriptors()}
}

// Verify fails the test when there is more than at the snapshot. What just ended gets some seconds to be gone.
func (s State) Verify(t testing.TB) {
	t.Helper()
	// A client of SPDY (exec, port-forward) keeps this one for 10 minutes. It cannot be the gate's, which does not have SPDY
	// in it: it passes such connections on as bytes.
	// A part of the lab that a test restarted is waited for by a goroutine that was not there before: the lab's, not the gate's.
	goleak.VerifyNone(t, s.goroutines, goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"),
		goleak.IgnoreAnyFunction("github.com/seakeep/seakeep/lab.(*Process).reap"))
	deadline := time.After(5 * time.Second)
	for {
		left := s.left()
		if len(left) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Errorf("%d descriptors were left open: %s", len(left), strings.Join(left, ", "))
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// left lists the descriptors that were not there at the snapshot.
func (s State) left() []string {
	now := descriptors()
	maps.DeleteFunc(now, func(number, what string) bool { return s.descriptors[number] == what })
	return slices.Sorted(maps.Values(now))
}

// descriptors are this process's, without those the Go runtime keeps for itself.
func descriptors() map[string]string {
	found := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return found
	}
	for _, e := range entries {
		what, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil || strings.HasPrefix(what, "anon_inode:") || what == "/proc/self/fd" || strings.HasPrefix(what, "/proc/") {
			continue // gone meanwhile, the poller, or this very listing
		}
		found[e.Name()] = what
	}
	return found
}
