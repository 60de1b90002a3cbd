package statefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// linesLife is a process that keeps lines, and the clock it has.
type linesLife struct {
	*Lines
	t    *testing.T
	path string
	now  time.Time
	all  []string
	was  string
}

func startLines(t *testing.T, most int) *linesLife {
	t.Helper()
	l := &linesLife{t: t, path: filepath.Join(t.TempDir(), "state", "lines"), now: time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)}
	l.restart(most)
	return l
}

// restart is the process after, which reads what is there.
func (l *linesLife) restart(most int) {
	l.t.Helper()
	var err error
	l.Lines, err = OpenLines(l.path, 0o600, most, func(r io.Reader) error {
		data, err := io.ReadAll(r)
		l.was = string(data)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// add adds a line, a second after the one before.
func (l *linesLife) add(line string) (turned bool) {
	l.now = l.now.Add(time.Second)
	l.all = append(l.all, line)
	return l.Add(l.now, []byte(line+"\n"), func() ([][]byte, error) {
		var lines [][]byte
		for _, line := range l.all {
			lines = append(lines, []byte(line+"\n"))
		}
		return lines, nil
	})
}

func (l *linesLife) want(lines ...string) {
	l.t.Helper()
	data, err := os.ReadFile(l.path)
	if err != nil {
		l.t.Error(err)
	}
	if diff := cmp.Diff(strings.Join(lines, "\n")+"\n", string(data)); diff != "" {
		l.t.Errorf("(-want +got)\n%s", diff)
	}
}

func (l *linesLife) spoil(text string) {
	l.t.Helper()
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		l.t.Fatal(err)
	}
}

// What a death has torn is cut off, by the process itself and by the next; what another process has added stays.
func TestLinesAfterATornOne(t *testing.T) {
	l := startLines(t, 0)
	l.add("a")
	l.spoil("tor")
	l.add("b")
	l.want("a", "b")
	l.spoil("c of another\nand mo")
	l.restart(0)
	l.add("d")
	l.spoil("e of another\nand mo")
	l.add("f")
	l.want("a", "b", "c of another", "d", "e of another", "f")
	info, err := os.Stat(l.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A disk that is full in the midst of a line leaves whole lines, and is said once. When there is room again all of it is there.
func TestLinesOnAFullDisk(t *testing.T) {
	l := startLines(t, 0)
	l.add("a")
	l.write = func(f *os.File, p []byte) (int, error) {
		n, err := f.Write(p[:len(p)/2])
		return n, errors.Join(err, unix.ENOSPC)
	}
	if turned := l.add("long enough"); !turned || !errors.Is(l.Trouble(), unix.ENOSPC) {
		t.Errorf("turned %v: %v", turned, l.Trouble())
	}
	l.want("a")
	for range 15 { // it is tried again meanwhile
		if l.add("more") || l.Trouble() == nil {
			t.Errorf("%v", l.Trouble())
		}
	}
	l.want("a")
	l.write = (*os.File).Write
	well := 0
	for range 15 {
		if l.add("well") {
			well++
		}
	}
	if well != 1 || l.Trouble() != nil {
		t.Errorf("said %d times: %v", well, l.Trouble())
	}
	l.want(l.all...)
	l.add("last")
	l.want(l.all...)
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(l.path), ".*")); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// What was taken away or cut is written anew, and so is what has grown too long: then it is what the caller still wants of it.
func TestLinesAreWrittenAnew(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"taken away":      os.Remove,
		"with its folder": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"cut":             func(path string) error { return os.Truncate(path, 1) },
		"left over by a kill": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(filepath.Join(filepath.Dir(path), ".lines123"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLines(t, 0)
			l.add("a")
			l.add("b")
			if err := spoil(l.path); err != nil {
				t.Fatal(err)
			}
			editor := filepath.Join(filepath.Dir(l.path), ".lines.swp")
			if err := os.MkdirAll(filepath.Dir(editor), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(editor, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			l.add("c")
			l.want("a", "b", "c")
			if err := os.Remove(editor); err != nil {
				t.Errorf("somebody else's file was swept: %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(filepath.Dir(l.path), ".*")); err != nil || len(left) != 0 {
				t.Errorf("%v, %v", left, err)
			}
		})
	}
	l := startLines(t, 4)
	for i := range 4 {
		l.add(fmt.Sprint(i))
	}
	l.all = l.all[2:]
	l.add("4")
	l.want("2", "3", "4")
	l.restart(3)
	l.all = l.all[2:]
	l.add("5")
	l.want("4", "5")
	l.Rewrite()
	l.all = l.all[1:]
	l.add("6")
	l.want("5", "6")
}

func TestOpenLines(t *testing.T) {
	dir := t.TempDir()
	bad := errors.New("line 1: no sense")
	read := func(io.Reader) error { return bad }
	if _, err := OpenLines(dir, 0o600, 0, read); err == nil || !strings.Contains(err.Error(), "it must be a file") {
		t.Errorf("a folder: %v", err)
	}
	file := filepath.Join(dir, "lines")
	if err := os.WriteFile(file, []byte("?\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLines(file, 0o600, 0, read); !errors.Is(err, bad) || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that cannot be read: %v", err)
	}
	if _, err := OpenLines(filepath.Join(file, "below"), 0o600, 0, read); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file in the way of the folder: %v", err)
	}
}

// Whatever is in the file, what was whole stays and the line that is added is one.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\nc"), uint8(1))
	f.Add([]byte("\n\n\n"), uint8(3))
	f.Add([]byte{0xff, 0, '\n', '\r'}, uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint8) {
		path := filepath.Join(t.TempDir(), "lines")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLines(path, 0o600, 0, func(r io.Reader) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, int(chunk)+1))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		l.Add(time.Now(), []byte("added\n"), nil)
		if err := l.Trouble(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole := data[:bytes.LastIndexByte(data, '\n')+1]
		if want := append(bytes.Clone(whole), "added\n"...); !bytes.Equal(got, want) {
			t.Errorf("%q became %q", data, got)
		}
		if want := bytes.Count(data, []byte{'\n'}) + 1; l.count != want {
			t.Errorf("%d lines, want %d", l.count, want)
		}
	})
}
