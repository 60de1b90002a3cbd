package statefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

type state struct {
	Rules []string `json:"rules"`
}

func save(t *testing.T, f *File, rules ...string) {
	t.Helper()
	if err := f.Save(state{rules}); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, f *File) (state, Meta) {
	t.Helper()
	var got state
	meta, err := f.Load(&got)
	if err != nil {
		t.Fatal(err)
	}
	return got, meta
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	f := New(dir, "rules", 2)
	at := time.Date(2024, 12, 11, 15, 16, 17, 5, time.UTC)
	f.now = func() time.Time { return at }
	if _, err := f.Load(&state{}); !errors.Is(err, ErrNone) {
		t.Errorf("loading nothing: %v, want ErrNone", err)
	}
	for i := range 5 {
		save(t, f, strconv.Itoa(i))
	}
	got, meta := load(t, New(dir, "rules", 3))
	if diff := cmp.Diff(state{[]string{"4"}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Meta{SchemaVersion: 2, Saved: at}, meta); diff != "" {
		t.Errorf("meta (-want +got):\n%s", diff)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode())
		}
	}
	if diff := cmp.Diff([]string{"rules", "rules.1", "rules.2"}, names); diff != "" {
		t.Errorf("generations (-want +got):\n%s", diff)
	}
}

func TestBadGenerations(t *testing.T) {
	flip := func(at int) func(string) error {
		return func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[(at+len(data))%len(data)] ^= 4
			return os.WriteFile(path, data, 0o600)
		}
	}
	tests := map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"torn":           {func(p string) error { return os.Truncate(p, 130) }, "torn"},
		"empty":          {func(p string) error { return os.Truncate(p, 0) }, "not a state file"},
		"bit in body":    {flip(-4), "checksum"},
		"bit in version": {flip(len(magic) + len(" schema=")), ""},
		"another's file": {func(p string) error { return os.WriteFile(p, []byte("{}\n"), 0o600) }, "not a state file"},
		"newer schema":   {func(p string) error { return New(filepath.Dir(p), filepath.Base(p), 9).Save(state{}) }, "newer"},
		"folder": {func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}, "not a state file"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := New(dir, "rules", 1)
			save(t, f, "old")
			save(t, f, "new")
			if err := tc.spoil(f.Path()); err != nil {
				t.Fatal(err)
			}
			got, meta := load(t, f)
			if want := []string{"old"}; !slices.Equal(got.Rules, want) && name != "newer schema" {
				t.Errorf("loaded %v, want %v", got.Rules, want)
			}
			if meta.Generation < 1 || len(meta.Refused) != 1 || !strings.Contains(meta.Refused[0].Error(), tc.want) ||
				!strings.Contains(meta.Refused[0].Error(), f.Path()) {
				t.Errorf("meta %+v does not say what was refused and why", meta)
			}
			if name == "folder" {
				return // nothing can be saved over it
			}
			save(t, f, "newest")
			if got, meta := load(t, f); got.Rules[0] != "newest" || meta.Refused != nil {
				t.Errorf("after saving again: %v, %+v", got, meta)
			}
			// The bad one has not pushed the good old one out.
			if err := os.Remove(f.Path()); err != nil {
				t.Fatal(err)
			}
			if got, _ := load(t, f); name != "newer schema" && got.Rules[0] != "old" {
				t.Errorf("the generation before is %v, want the last good one", got)
			}
		})
	}
}

func TestAllBad(t *testing.T) {
	f := New(t.TempDir(), "rules", 1)
	for range 3 {
		save(t, f, "x")
	}
	for i := range generations {
		if err := os.Truncate(f.generation(i), 50); err != nil {
			t.Fatal(err)
		}
	}
	_, err := f.Load(&state{})
	if err == nil || strings.Count(err.Error(), f.Path()) != 3 {
		t.Errorf("error %v does not name all three", err)
	}
}

func TestFailedWriteKeepsWhatWas(t *testing.T) {
	tests := map[string]func(path string, fill func(*os.File) error, ready func() error) error{
		"no room": func(string, func(*os.File) error, func() error) error { return unix.ENOSPC },
		"after rotating": func(_ string, _ func(*os.File) error, ready func() error) error {
			return errors.Join(ready(), unix.ENOSPC)
		},
	}
	for name, write := range tests {
		t.Run(name, func(t *testing.T) {
			f := New(t.TempDir(), "rules", 1)
			for i := range 3 {
				save(t, f, strconv.Itoa(i))
			}
			f.write = write
			for range 5 {
				if err := f.Save(state{[]string{"new"}}); !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "keeping") {
					t.Fatalf("saving on a full disk: %v", err)
				}
			}
			if got, meta := load(t, f); got.Rules[0] != "2" || meta.Generation != 0 {
				t.Errorf("loaded %v of generation %d, want what was saved before", got, meta.Generation)
			}
			f.write = writeDurably
			save(t, f, "3")
			if err := os.Remove(f.Path()); err != nil {
				t.Fatal(err)
			}
			if got, _ := load(t, f); got.Rules[0] != "2" {
				t.Errorf("the generation before is %v, want 2", got)
			}
		})
	}
}

// A file that may not grow stands in for a full disk: the kernel itself cuts the write short.
func TestFullDisk(t *testing.T) {
	if dir := os.Getenv("STATEFILE_TEST_DIR"); dir != "" {
		fullDiskChild(dir)
		return
	}
	dir := t.TempDir()
	save(t, New(dir, "rules", 1), "old")
	child := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	child.Env = append(os.Environ(), "STATEFILE_TEST_DIR="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "refused as it should be") {
		t.Fatalf("child: %v\n%s", err, out)
	}
	if got, _ := load(t, New(dir, "rules", 1)); got.Rules[0] != "old" {
		t.Errorf("loaded %v, want what was saved before", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "rules") {
			t.Errorf("%s is left behind: it fills the disk further", e.Name())
		}
	}
}

func fullDiskChild(dir string) {
	// Go's runtime ignores SIGXFSZ, so the write fails with EFBIG.
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1024, Max: 1024}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	err := New(dir, "rules", 1).Save(state{[]string{strings.Repeat("x", 100_000)}})
	if err == nil {
		fmt.Println("saved more than fits")
		os.Exit(1)
	}
	streamed := New(dir, "rules", 1).SaveStream(func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("x", 100_000))
		return err
	})
	if streamed == nil {
		fmt.Println("streamed more than fits")
		os.Exit(1)
	}
	os.Stderr.WriteString("refused as it should be: " + err.Error() + ", " + streamed.Error() + "\n")
	os.Exit(0)
}

func FuzzDecode(f *testing.F) {
	good, err := encode(1, time.Unix(0, 0), state{[]string{"a"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic + " schema=1 saved= bytes=-1 sha256=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, body, err := decode(data)
		if err != nil {
			return
		}
		// What is accepted is what encode writes, but for the form of the time.
		if h.version < 1 || !strings.HasSuffix(string(data), string(body)) {
			t.Errorf("accepted %q as version %d", data, h.version)
		}
		for i := range data {
			spoilt := slices.Clone(data)
			spoilt[i] ^= 1
			if _, _, err := decode(spoilt); err == nil {
				t.Fatalf("a flipped bit in byte %d is not seen", i)
			}
			if _, _, err := decode(data[:i]); err == nil {
				t.Fatalf("%d of %d bytes are accepted", i, len(data))
			}
		}
	})
}

// What a killed process left half-written goes with the next one's first Save, and nothing else does.
func TestLitterIsRemoved(t *testing.T) {
	dir := t.TempDir()
	litter := []string{".rules123", ".rules18446744073709551615"}
	kept := []string{".rules", ".rules12x", "rules123", ".rulesets123", ".other123"}
	for _, name := range slices.Concat(litter, kept) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := New(dir, "rules", 1)
	if _, err := f.Load(&state{}); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, litter[0])); err != nil {
		t.Error("a reader took a file from under the writer")
	}
	save(t, f, "a")
	for name, want := range map[bool][]string{true: kept, false: litter} {
		for _, file := range want {
			if _, err := os.Stat(filepath.Join(dir, file)); (err == nil) != name {
				t.Errorf("%s is there: %t, want %t", file, err == nil, name)
			}
		}
	}
}
