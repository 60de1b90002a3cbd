// Package testkit is what the tests of many parts do alike. It is compiled into tests only.
package testkit

import (
	"testing"
	"time"
)

// Within polls until the condition holds, and fails the test when it does not within that time. It is for the state of real
// servers, whose changes nobody announces; what has a clock of its own is tested with testing/synctest.
func Within(t testing.TB, what string, within time.Duration, is func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
