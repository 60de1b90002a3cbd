package decision

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// Each file of testdata is a story. A line is a round: the time, the primary, the backup, and after the arrow what must be
// decided. A server is good, wrong or silent; good@-20m says from when its data is, relative to the round.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d transcripts (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d := New(Config{FailAfter: 3, RecoverAfter: 4, MinimumHold: 10 * time.Second, AllowedLag: 10 * time.Minute})
			for lines, number := bufio.NewScanner(f), 1; lines.Scan(); number++ {
				line := strings.TrimSpace(lines.Text())
				if line == "" || line[0] == '#' {
					continue
				}
				said, want, ok := strings.Cut(line, "→")
				words := strings.Fields(said)
				if !ok || len(words) != 3 {
					t.Fatalf("line %d is no round: %q", number, line)
				}
				after, err := time.ParseDuration(words[0])
				if err != nil {
					t.Fatal(err)
				}
				r := Round{At: start.Add(after), Random: 0.4} // a hold of 12 s
				r.Primary, r.Backup = answer(t, words[1], r.At), answer(t, words[2], r.At)
				got := d.Decide(r)
				where := "primary"
				if got.Backup {
					where = "backup"
				}
				if diff := cmp.Diff(strings.Join(strings.Fields(want), " "), fmt.Sprintf("%s %s", where, got.Reason)); diff != "" {
					t.Errorf("line %d, %s: %s", number, line, diff)
				}
			}
		})
	}
}

func answer(t *testing.T, word string, now time.Time) Answer {
	t.Helper()
	what, age, dated := strings.Cut(word, "@")
	a := Answer{Good: what == "good", Silent: what == "silent"}
	if dated {
		d, err := time.ParseDuration(age)
		if err != nil {
			t.Fatal(err)
		}
		a.Confirmed = now.Add(d)
	}
	return a
}

// Whatever happens: clients are never sent to a backup that does not answer, and stay at the backup for the hold, unless
// it fails.
func TestAlwaysTrue(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	c := Config{FailAfter: 3, RecoverAfter: 4, MinimumHold: 10 * time.Second, AllowedLag: time.Minute}
	switches := 0
	for range 300 {
		d, at, engaged := New(c), start, time.Time{}
		primary, backup := Answer{Good: true}, Answer{Good: true}
		was := Decision{}
		for range 400 {
			at = at.Add(time.Second)
			if random.IntN(8) == 0 {
				primary = []Answer{{Good: true, Confirmed: at}, {Silent: true}, {}}[random.IntN(3)]
			}
			if random.IntN(12) == 0 {
				backup = []Answer{{Good: true, Confirmed: at.Add(-time.Duration(random.IntN(200)) * time.Second)}, {Silent: true}, {}}[random.IntN(3)]
			}
			got := d.Decide(Round{At: at, Primary: primary, Backup: backup, Random: random.Float64()})
			switch {
			case got.Backup && !was.Backup:
				switches++
				engaged = at
				if !backup.Good || primary.Good {
					t.Fatalf("switched to a backup that is %+v, from a primary that is %+v", backup, primary)
				}
			case !got.Backup && was.Backup && got.Reason != BackupFailed:
				if at.Sub(engaged) < c.MinimumHold || !primary.Good {
					t.Fatalf("switched back after %s to a primary that is %+v", at.Sub(engaged), primary)
				}
			case !got.Backup && was.Backup && (backup.Good || primary.Silent):
				t.Fatalf("gave up a backup that is %+v for a primary that is %+v", backup, primary)
			}
			was = got
		}
	}
	if switches < 1000 {
		t.Errorf("%d switches: nothing was tried", switches)
	}
}

func TestUndo(t *testing.T) {
	d := New(Config{FailAfter: 1, RecoverAfter: 1})
	r := Round{At: start, Primary: Answer{Silent: true}, Backup: Answer{Good: true}}
	for range 2 {
		if got := d.Decide(r); !got.Backup {
			t.Fatalf("decided %+v", got)
		}
		d.Undo()
	}
}
