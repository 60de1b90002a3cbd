package baseline

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	program := Program{Name: "a-program-nobody-has", Package: "nobody", VersionArgs: []string{"-v"}}
	if _, err := program.Find(); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
	if got := program.Version(t.Context()); got != program.Name {
		t.Errorf("the version of what is missing is %q", got)
	}
	path := filepath.Join(dir, program.Name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho version 7; echo more\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := program.Find(); got != path || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	if got := program.Version(t.Context()); got != "version 7" {
		t.Errorf("got %q", got)
	}
	if err := Install(t.Context(), io.Discard, program); err != nil {
		t.Errorf("what is there was to be installed: %v", err)
	}
}

// Without apt-get nothing can be installed, and the user is told what to do.
func TestInstallSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Install(t.Context(), io.Discard, Program{Name: "a-program-nobody-has", Package: "its-package"})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install its-package") {
		t.Errorf("got %v", err)
	}
}
