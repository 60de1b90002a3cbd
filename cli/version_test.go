package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// runVerb runs one command line in process.
func runVerb(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	env := &Env{Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }}
	code = Run(t.Context(), env)
	return code, out.String(), errs.String()
}

func TestVersionOf(t *testing.T) {
	info := func(main string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main:     debug.Module{Version: main},
			Settings: settings,
			Deps:     []*debug.Module{{Path: "k8s.io/apimachinery", Version: "v0.37.2"}},
		}
	}
	tests := map[string]struct {
		stamped      string
		info         *debug.BuildInfo
		wantVersion  string
		wantRevision string
	}{
		"stamped by make":             {stamped: "v1.2.3", info: info("(devel)"), wantVersion: "v1.2.3"},
		"installed as a module":       {info: info("v1.2.3"), wantVersion: "v1.2.3"},
		"built in a checkout":         {info: info("(devel)", debug.BuildSetting{Key: "vcs.revision", Value: "abc"}), wantVersion: "devel", wantRevision: "abc"},
		"the toolchain knows nothing": {wantVersion: "devel"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := versionOf(tc.stamped, tc.info)
			if got.Version != tc.wantVersion || got.Revision != tc.wantRevision {
				t.Errorf("version %q revision %q, want %q %q", got.Version, got.Revision, tc.wantVersion, tc.wantRevision)
			}
		})
	}
}

func TestVersionOutput(t *testing.T) {
	code, out, _ := runVerb(t, "version", "-o", "json")
	var v versionInfo
	if err := json.Unmarshal([]byte(out), &v); code != ExitOK || err != nil || v.Version == "" || v.GoVersion == "" {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	code, out, errs := runVerb(t, "version", "-o", "xml")
	if code != ExitUsage || out != "" || !strings.Contains(errs, "error: output must be table or json") || !strings.Contains(errs, "hint: ") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out, errs)
	}
}

// Every command a user sees has a page, and every page opens with how to use it.
func TestDocsDescribeEveryVerb(t *testing.T) {
	folder := t.TempDir()
	root := newRoot(&Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Getenv: func(string) string { return "" }})
	if err := writeVerbPages(root, folder); err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range root.Commands() {
		if cmd.Hidden || cmd.Name() == "help" {
			continue
		}
		page := "seakeep_" + cmd.Name() + ".md"
		if !strings.Contains(string(index), "("+page+")") {
			t.Errorf("the index does not name %s", page)
		}
		if _, err := os.Stat(filepath.Join(folder, page)); err != nil {
			t.Error(err)
		}
		if cmd.Name() != "completion" && cmd.Example == "" {
			t.Errorf("%s has no example: help opens with one", cmd.CommandPath())
		}
	}
}
