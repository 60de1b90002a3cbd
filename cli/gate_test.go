package cli

import (
	"syscall"
	"testing"
	"time"
)

func TestHangupDoesNotEndTheGate(t *testing.T) {
	leavesNothing(t)
	reopened := make(chan struct{}, 1)
	stop := onHangup(func() { reopened <- struct{}{} })
	defer stop()
	for range 2 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reopened:
		case <-time.After(10 * time.Second):
			t.Fatal("not heard")
		}
	}
}
