package lint

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what was found beside the manifests")

// TestManifests compares what is found in testdata/*.yaml with what stands in the .txt beside it.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, r := range m.Lint() {
				fmt.Fprintf(&got, "%s %s: %s, %s\n\t%s\n\t%s\n", r.Severity, r.Name, r.Object, r.Field, r.Why, r.Remedy)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-there +now):\n%s", golden, diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"no kind":            {"a: 1\n", "document 1"},
		"no YAML":            {"kind: DaemonSet\n---\n{]\n", "document 2"},
		"a wrong field type": {"kind: DaemonSet\nspec: 3\n", "DaemonSet"},
		"Lists in Lists":     {`{"kind":"List","items":[{"kind":"List","items":[{"kind":"List","items":[{"kind":"List","items":[]}]}]}]}`, "Lists"},
		"an item of no kind": {`{"kind":"List","items":[{}]}`, "items[0]"},
	} {
		if _, err := Parse(strings.NewReader(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m, err := Parse(strings.NewReader("# nothing\n---\n---\nkind: Service\n"))
	if err != nil || m.Objects != 1 || m.Others != 1 || len(m.Lint()) != 0 {
		t.Errorf("%+v %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, r := range m.Lint() {
			if r.Name == "" || r.Severity == "" || r.Object == "" || r.Why == "" || r.Remedy == "" {
				t.Errorf("%+v says too little", r)
			}
		}
	})
}
