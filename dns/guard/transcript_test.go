package guard

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A transcript is a list of what happens to a cluster and, indented below each line, what the guard decides and what
// is served then. Lines that begin with # are for the reader. The commands:
//
//	cluster services=N endpoints=N nodes=N        begin: service 1…N, with so many endpoints each, spread over the nodes
//	lose A..B [to=N] [over=D]                     the services' slices are updated: N endpoints are left, one service after the other
//	bring A..B [over=D]                           all their endpoints are ready again
//	replace A..B                                  an update takes their endpoints and brings as many others
//	node N…                                       the nodes' endpoints are lost, service by service
//	delete A..B                                   their slices are seen to be deleted
//	list [missing=A..B] [emptied=A..B] [replaced=A..B] [lost=A..B:N] [backwards]   a list of all slices
//	namespaces gone=A..B of=N [services=N]        namespaces are seen to be deleted, with services still in them
//	wait D                                        time passes
//	release                                       the operator releases everything
//	corroborate                                   a second source lacks everything that one could ask it about
//	holds                                         what is held
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("(-transcript +guard):\n%s", diff)
			}
		})
	}
}

func replay(t *testing.T, transcript string) string {
	w := &world{t: t, now: time.Date(2019, 5, 13, 9, 0, 0, 0, time.UTC)}
	var out strings.Builder
	lines := bufio.NewScanner(strings.NewReader(transcript))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "    ") {
			continue // what was decided the last time
		}
		out.WriteString(line + "\n")
		if line != "" && !strings.HasPrefix(line, "#") {
			for _, said := range w.do(line) {
				out.WriteString("    " + said + "\n")
			}
		}
	}
	return out.String()
}
