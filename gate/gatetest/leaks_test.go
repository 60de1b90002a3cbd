package gatetest_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/seakeep/seakeep/gate/gatetest"
)

// recorder is a test that may fail without failing this one.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Error(...any)          { r.failed = true }
func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestVerifyFindsWhatIsLeft(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T) (undo func()){
		"a goroutine": func(*testing.T) func() {
			done, ended := make(chan struct{}), make(chan struct{})
			go func() { <-done; close(ended) }()
			return func() { close(done); <-ended }
		},
		"a file": func(t *testing.T) func() {
			f, err := os.Create(filepath.Join(t.TempDir(), "left"))
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }
		},
		"a socket": func(t *testing.T) func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = l.Close() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := gatetest.Snapshot()
			undo := leave(t)
			left := &recorder{TB: t}
			before.Verify(left)
			if !left.failed {
				t.Error("nothing was found")
			}
			undo()
			before.Verify(t)
		})
	}
}
