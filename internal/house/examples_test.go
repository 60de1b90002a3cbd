package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/internal/config"
)

// A configuration in the documentation is copied by those who are in a hurry: every one must be accepted as it stands.
func TestExamplesInDocsAreValid(t *testing.T) {
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	root := moduleRoot(t)
	found := 0
	for _, name := range trackedFiles(t, root) {
		if filepath.Ext(name) != ".md" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue // deleted and not committed yet
		}
		for _, match := range block.FindAllSubmatch(content, -1) {
			text := string(match[1])
			if !strings.Contains(text, "apiVersion: seakeep.dev/") {
				continue // a fragment, or an object of Kubernetes
			}
			found++
			if _, err := config.Load("-", strings.NewReader(text)); err != nil {
				t.Errorf("%s: an example is refused: %v", name, err)
			}
		}
	}
	if found == 0 {
		t.Error("no example was found")
	}
}

// A link inside the repository must lead somewhere.
func TestLinksInDocs(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)
	root := moduleRoot(t)
	for _, name := range trackedFiles(t, root) {
		if filepath.Ext(name) != ".md" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue // deleted and not committed yet
		}
		for _, match := range link.FindAllSubmatch(content, -1) {
			target := string(match[1])
			if strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), target)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, target)
			}
		}
	}
}
