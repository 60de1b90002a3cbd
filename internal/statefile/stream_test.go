package statefile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func saveStream(t *testing.T, f *File, body string) {
	t.Helper()
	err := f.SaveStream(func(w io.Writer) error {
		_, err := io.WriteString(w, body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func loadStream(f *File) (string, Meta, error) {
	var got []byte
	meta, err := f.LoadStream(func(_ int, body io.Reader) error {
		var err error
		got, err = io.ReadAll(body)
		return err
	})
	return string(got), meta, err
}

func TestStream(t *testing.T) {
	f := New(t.TempDir(), "data", 1)
	if _, _, err := loadStream(f); !errors.Is(err, ErrNone) {
		t.Errorf("loading nothing: %v, want ErrNone", err)
	}
	for _, body := range []string{"", "first\n", strings.Repeat("second", 50_000)} {
		saveStream(t, f, body)
		got, meta, err := loadStream(f)
		if err != nil || got != body || meta.Generation != 0 {
			t.Errorf("loaded %d bytes of generation %d, %v; want the %d saved", len(got), meta.Generation, err, len(body))
		}
	}
	// The same file, read by the other half of the package.
	data, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, body, err := decode(data); err != nil || len(body) != 300_000 {
		t.Errorf("decode: %d bytes, %v", len(body), err)
	}
}

// Whatever is left of a file, and whichever bit is flipped in it, the generation before it is what is loaded.
func TestStreamTornAndFlippedEverywhere(t *testing.T) {
	dir := t.TempDir()
	f := New(dir, "data", 1)
	saveStream(t, f, "old")
	saveStream(t, f, "new")
	whole, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	check := func(data []byte, what string, at int) {
		t.Helper()
		if err := os.WriteFile(f.Path(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, meta, err := loadStream(f); got != "old" || meta.Generation != 1 || len(meta.Refused) != 1 || err != nil {
			t.Fatalf("%s at %d: loaded %q of generation %d, %v", what, at, got, meta.Generation, err)
		}
	}
	for i := range whole {
		check(whole[:i], "torn", i)
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		check(flipped, "flipped", i)
	}
}

func TestStreamRefuses(t *testing.T) {
	t.Run("a body over the limit is not written", func(t *testing.T) {
		f := New(t.TempDir(), "data", 1)
		saveStream(t, f, "old")
		f.SetLimit(200)
		err := f.SaveStream(func(w io.Writer) error {
			_, err := io.WriteString(w, strings.Repeat("x", 300))
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "limit of 200") {
			t.Errorf("saving over the limit: %v", err)
		}
		if got, _, err := loadStream(f); got != "old" || err != nil {
			t.Errorf("loaded %q, %v; want what was saved before", got, err)
		}
	})
	t.Run("a file over the limit is not read", func(t *testing.T) {
		f := New(t.TempDir(), "data", 1)
		saveStream(t, f, strings.Repeat("x", 300))
		f.SetLimit(200)
		if _, _, err := loadStream(f); err == nil || !strings.Contains(err.Error(), "at most 200 are read") {
			t.Errorf("loading over the limit: %v", err)
		}
	})
	t.Run("a symbolic link is not followed", func(t *testing.T) {
		dir := t.TempDir()
		saveStream(t, New(dir, "other", 1), "theirs")
		if err := os.Symlink(filepath.Join(dir, "other"), filepath.Join(dir, "data")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := loadStream(New(dir, "data", 1)); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("loading a link: %v", err)
		}
	})
	t.Run("what its reader refuses is not loaded", func(t *testing.T) {
		f := New(t.TempDir(), "data", 1)
		saveStream(t, f, "old")
		saveStream(t, f, "new")
		var got string
		meta, err := f.LoadStream(func(_ int, body io.Reader) error {
			data, err := io.ReadAll(body)
			if got = string(data); got == "new" {
				return errors.New("another cluster's")
			}
			return err
		})
		if err != nil || got != "old" || len(meta.Refused) != 1 || !strings.Contains(meta.Refused[0].Error(), "another cluster's") {
			t.Errorf("loaded %q, %+v, %v", got, meta, err)
		}
	})
}
