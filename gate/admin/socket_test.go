package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	e := start(t, dir)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "another gate") {
		t.Errorf("a live gate's socket is taken: %v", err)
	}
	e.stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a gate that stopped leaves its socket: %v", err)
	}
	// What a killed gate leaves: a socket file without a process.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "answers") {
		t.Errorf("a socket somebody listens on is taken: %v", err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := listenSocket(path)
	if err != nil {
		t.Fatalf("a dead gate's socket is not replaced: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("somebody's file is removed: %v", err)
	}
}

func TestStrangersAreNotHeard(t *testing.T) {
	request := func(p any) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if p != nil {
			r = r.WithContext(context.WithValue(r.Context(), peerKey{}, p))
		}
		return r
	}
	if _, err := localActor(request(nil)); err == nil {
		t.Error("a caller the kernel does not name is heard")
	}
	if _, err := localActor(request(peer{uid: int64(os.Geteuid()) + 12345})); err == nil {
		t.Error("another user is heard")
	}
	if _, err := localActor(request(peer{uid: 0, pid: 1})); err != nil {
		t.Errorf("root: %v", err)
	}
	if _, err := remoteActor([]string{"alice"})(request(nil)); err == nil {
		t.Error("a caller without a certificate is heard")
	}
}
