package attack

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModelNamesTests: a threat model that names a test which is not there says less than it seems to.
func TestThreatModelNamesTests(t *testing.T) {
	root := filepath.Join("..", "..")
	model, err := os.ReadFile(filepath.Join(root, "docs", "threat-model.md"))
	check(t, err)
	named := regexp.MustCompile("`([a-z0-9/_]+_test\\.go):((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(model), -1)
	if len(named) < 40 {
		t.Fatalf("%d tests are named, want one for each attack", len(named))
	}
	for _, n := range named {
		source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(n[1])))
		check(t, err)
		if !strings.Contains(string(source), "func "+n[2]+"(") {
			t.Errorf("%s has no %s", n[1], n[2])
		}
	}
	// And each attack of this package is in the model.
	files, err := filepath.Glob("*_test.go")
	check(t, err)
	for _, file := range files {
		source, err := os.ReadFile(file)
		check(t, err)
		for _, test := range regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(t \*testing\.T\)`).FindAllSubmatch(source, -1) {
			if name := string(test[1]); name != "TestThreatModelNamesTests" && !strings.Contains(string(model), "gate/attack/"+file+":"+name) {
				t.Errorf("%s:%s is not in the threat model", file, name)
			}
		}
	}
}
