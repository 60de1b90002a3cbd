package auditlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

type event struct {
	Event string `json:"event"`
	N     int    `json:"n"`
}

func openAt(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, Options{Clock: func() time.Time { return time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func written(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := openAt(t, path)
	for i := range n {
		if err := l.Append(event{"set <b>", i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAppendAndVerify(t *testing.T) {
	path := written(t, 3)
	s, err := Verify(path)
	if err != nil || s.Lines != 3 || s.Torn != 0 || len(s.LastHash) != 64 {
		t.Fatalf("%+v, %v", s, err)
	}
	l := openAt(t, path) // another process later
	if err := l.Append(event{"lift", 3}); err != nil {
		t.Fatal(err)
	}
	if s, err := Verify(path); err != nil || s.Lines != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"seq":1,"time":"2024-12-11T15:16:00Z","prev":"","event":{"event":"set \u003cb\u003e","n":0},"hash":"`
	if !strings.HasPrefix(string(data), want) {
		t.Errorf("the first line is %s", data[:len(want)])
	}
}

func TestVerifyFindsTheFirstBreak(t *testing.T) {
	lines := func(change func([][]byte) [][]byte) func([]byte) []byte {
		return func(data []byte) []byte {
			return append(bytes.Join(change(bytes.Split(bytes.TrimSpace(data), []byte("\n"))), []byte("\n")), '\n')
		}
	}
	tests := map[string]struct {
		change func([]byte) []byte
		line   uint64
		want   string
	}{
		"changed":       {func(d []byte) []byte { return bytes.Replace(d, []byte(`"n":1`), []byte(`"n":7`), 1) }, 2, "changed"},
		"removed":       {lines(func(l [][]byte) [][]byte { return append(l[:1], l[2:]...) }), 2, "removed"},
		"first removed": {lines(func(l [][]byte) [][]byte { return l[1:] }), 1, "removed"},
		"swapped":       {lines(func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l }), 2, "removed or inserted"},
		"inserted":      {lines(func(l [][]byte) [][]byte { return append(l[:2], l[1:]...) }), 3, "inserted"},
		"no hash":       {func(d []byte) []byte { return append(d, "{}\n"...) }, 5, "no hash"},
		"empty line":    {func(d []byte) []byte { return append(d, '\n') }, 5, "no hash"},
		"forged end": {func(d []byte) []byte {
			line, _, _ := encodeLine(5, time.Unix(0, 0), strings.Repeat("0", 64), []byte(`{}`))
			return append(d, line...)
		}, 5, "continue"},
		"endless line": {func(d []byte) []byte { return append(d, bytes.Repeat([]byte("x"), maxLine+2)...) }, 5, "longer"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := written(t, 4)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.change(data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = Verify(path)
			var broken *BreakError
			if !errors.As(err, &broken) || broken.Line != tc.line || !strings.Contains(broken.Reason, tc.want) {
				t.Errorf("%v, want a break in line %d: %s", err, tc.line, tc.want)
			}
			if l, err := Open(path, Options{}); err == nil {
				l.Close()
				t.Error("a broken log is opened: appending would bury the break")
			}
		})
	}
}

func TestTornLine(t *testing.T) {
	path := written(t, 2)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 100; cut += 7 {
		if err := os.WriteFile(path, whole[:len(whole)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Verify(path); err != nil || s.Lines != 1 || s.Torn == 0 {
			t.Fatalf("cut %d: %+v, %v", cut, s, err)
		}
		l, err := Open(path, Options{})
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		if err := l.Append(event{"after", 0}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err := Verify(path); err != nil || s.Lines != 3 {
			t.Errorf("cut %d: %+v, %v: want the good line, the one about the torn one, and the new one", cut, s, err)
		}
		aside, err := os.ReadFile(path + ".torn-2")
		if err != nil || !bytes.Contains(whole, aside) || len(aside) == 0 {
			t.Errorf("cut %d: the torn bytes are not kept: %q, %v", cut, aside, err)
		}
	}
}

func TestSecondWriterIsRefused(t *testing.T) {
	path := written(t, 1)
	openAt(t, path)
	if l, err := Open(path, Options{}); err == nil {
		l.Close()
		t.Error("two writers would fork the chain")
	}
}

// disk is a file whose writes and fsyncs fail when told to, after half of the bytes.
type disk struct {
	file
	full, noSync, stuck bool
}

func (d *disk) Write(p []byte) (int, error) {
	if d.full {
		n, _ := d.file.Write(p[:len(p)/2])
		return n, unix.ENOSPC
	}
	return d.file.Write(p)
}

func (d *disk) Sync() error {
	if d.noSync {
		return unix.EIO
	}
	return d.file.Sync()
}

func (d *disk) Truncate(size int64) error {
	if d.stuck {
		return unix.EIO
	}
	return d.file.Truncate(size)
}

func TestFailingDisk(t *testing.T) {
	path := written(t, 1)
	l := openAt(t, path)
	d := &disk{file: l.file}
	l.file = d
	for name, set := range map[string]func(bool){"full": func(b bool) { d.full = b }, "fsync": func(b bool) { d.noSync = b }} {
		set(true)
		if err := l.Append(event{"lost", 0}); err == nil {
			t.Errorf("%s: an event that is not on disk is acknowledged", name)
		}
		set(false)
		if s, err := Verify(path); err != nil || s.Lines != 1 || s.Torn != 0 {
			t.Errorf("%s: half a line stays: %+v, %v", name, s, err)
		}
	}
	if err := l.Append(event{"kept", 0}); err != nil {
		t.Fatal(err) // the disk has room again
	}
	d.full, d.stuck = true, true
	if err := l.Append(event{"lost", 0}); err == nil {
		t.Error("acknowledged")
	}
	d.full, d.stuck = false, false
	if err := l.Append(event{"after half a line", 0}); err == nil {
		t.Error("a line is appended to half a line")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	openAt(t, path)
	if s, err := Verify(path); err != nil || s.Lines != 3 {
		t.Errorf("after opening again: %+v, %v", s, err)
	}
}

func TestConcurrentAppend(t *testing.T) {
	path := written(t, 0)
	l := openAt(t, path)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 10 {
				if err := l.Append(event{fmt.Sprint(i), n}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if s, err := Verify(path); err != nil || s.Lines != 80 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(event{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("appending to a closed log: %v", err)
	}
}

// What was acknowledged is there after kill -9, whenever it comes.
func TestKill(t *testing.T) {
	if path := os.Getenv("AUDITLOG_TEST_PATH"); path != "" {
		l, err := Open(path, Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for i := 0; ; i++ {
			if err := l.Append(event{"set", i}); err != nil {
				os.Exit(1)
			}
			fmt.Println("acknowledged")
		}
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	acknowledged := 0
	for round := range 3 {
		child := exec.Command(os.Args[0], "-test.run=^TestKill$")
		child.Env = append(os.Environ(), "AUDITLOG_TEST_PATH="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("acknowledged\n"))
		for range 20 + 7*round {
			if _, err := io.ReadFull(out, line); err != nil {
				t.Fatal(err)
			}
			acknowledged++
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest, _ := io.ReadAll(out) // the pipe ends with the child
		acknowledged += bytes.Count(rest, []byte("\n"))
		_ = child.Wait() // killed, as it should be
		if s, err := Verify(path); err != nil || s.Lines < uint64(acknowledged) {
			t.Fatalf("round %d: %d lines of %d acknowledged, %v", round, s.Lines, acknowledged, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	line, hash, err := encodeLine(1, time.Unix(0, 0), "", []byte(`{"a":",\"hash\":\""}`))
	if err != nil {
		f.Fatal(err)
	}
	second, _, err := encodeLine(2, time.Unix(1, 0), hash, []byte(`null`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(line, second...))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := verify(bytes.NewReader(data))
		if s.size > int64(len(data)) || err == nil && s.size+int64(s.Torn) != int64(len(data)) {
			t.Errorf("%d good and %d torn bytes of %d", s.size, s.Torn, len(data))
		}
		if err != nil {
			return
		}
		// The good part by itself is good.
		again, err := verify(bytes.NewReader(data[:s.size]))
		if err != nil || again.Lines != s.Lines || again.LastHash != s.LastHash {
			t.Errorf("%+v, %v", again, err)
		}
	})
}
