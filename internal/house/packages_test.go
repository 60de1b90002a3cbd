package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// module is the prefix of our own import paths.
const module = "github.com/seakeep/seakeep/"

// pkg is the part of `go list -json` that the rules read.
type pkg struct {
	Dir          string
	ImportPath   string
	Name         string
	Doc          string
	Standard     bool
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// room is the package's folder in the house: "gate/limit", "cli".
func (p *pkg) room() string { return strings.TrimPrefix(p.ImportPath, module) }

// tests is everything the package's tests import.
func (p *pkg) tests() []string {
	return append(append([]string(nil), p.TestImports...), p.XTestImports...)
}

var list = sync.OnceValues(func() ([]*pkg, error) {
	command := exec.Command("go", "list", "-json", module+"...")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, errors.New("listing the packages: " + stderr.String())
	}
	var packages []*pkg
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := decoder.Decode(&p); err == io.EOF {
			return packages, nil
		} else if err != nil {
			return nil, err
		}
		if withinAny(p.room(), "bin", "out") { // what is built and tried out here is no part of the repository
			continue
		}
		packages = append(packages, &p)
	}
})

// packages returns every package of the module.
func packages(t *testing.T) []*pkg {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages: the rules would hold for nothing", len(all))
	}
	return all
}

// within is true when the room is the folder or below it.
func within(room, folder string) bool {
	return room == folder || strings.HasPrefix(room, folder+"/")
}

// withinAny is true when the room is one of the folders or below one.
func withinAny(room string, folders ...string) bool {
	for _, folder := range folders {
		if within(room, folder) {
			return true
		}
	}
	return false
}
