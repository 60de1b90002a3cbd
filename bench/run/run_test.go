package run

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/bench/result"
)

func none(string) string { return "" }

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		args    []string
		seconds string
		turn    time.Duration
		wantErr bool
	}{
		"as it is":               {turn: 3 * time.Second},
		"quick":                  {seconds: "1", turn: time.Second},
		"a flag wins":            {args: []string{"-turn", "2s"}, seconds: "1", turn: 2 * time.Second},
		"one of its own":         {args: []string{"-things", "7"}, turn: 3 * time.Second},
		"no number":              {seconds: "fast", wantErr: true},
		"too short":              {args: []string{"-turn", "1ms"}, wantErr: true},
		"no round":               {args: []string{"-rounds", "0"}, wantErr: true},
		"a broken expression":    {args: []string{"-only", "("}, wantErr: true},
		"a flag that is not one": {args: []string{"-loud"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			things := 7
			o, err := Parse("x", tc.args, func(string) string { return tc.seconds }, io.Discard, func(f *flag.FlagSet) { f.IntVar(&things, "things", 7, "") })
			if (err != nil) != tc.wantErr || err == nil && o.Turn != tc.turn {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestTurnsRotate(t *testing.T) {
	var got strings.Builder
	if err := Turns(3, []string{"a", "b", "c"}, func(c string) error { got.WriteString(c); return nil }); err != nil || got.String() != "abcbcacab" {
		t.Errorf("got %s, %v", got.String(), err)
	}
	broken := errors.New("broken")
	if err := Turns(2, []string{"a"}, func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		err := Until(t.Context(), time.Minute, func(context.Context) error {
			if asked++; asked < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || asked != 3 {
			t.Errorf("asked %d times: %v", asked, err)
		}
		began, never := time.Now(), errors.New("never")
		if err := Until(t.Context(), time.Minute, func(context.Context) error { return never }); !errors.Is(err, never) || time.Since(began) != time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// rig measures one number and notes that it was closed.
type rig struct {
	dir    string
	closed bool
	fail   error
}

func (r *rig) Setup(context.Context) []string { return []string{"Nothing runs."} }
func (r *rig) Close()                         { r.closed = true }
func (r *rig) Measure(_ context.Context, report *result.Report) error {
	report.Cases = append(report.Cases, result.Runs{"ours": {1}}.Case("one", "number", "s", "ours"))
	return r.fail
}

func TestRunWritesTheReport(t *testing.T) {
	for name, fail := range map[string]error{"well": nil, "broken": errors.New("broken")} {
		t.Run(name, func(t *testing.T) {
			out, r := t.TempDir(), &rig{fail: fail}
			prepare := func(args []string, getenv func(string) string, stderr io.Writer) (Options, Start, error) {
				o, err := Parse("x", args, getenv, stderr, func(*flag.FlagSet) {})
				return o, func(_ context.Context, dir string, _ Say) (Rig, error) { r.dir = dir; return r, nil }, err
			}
			var table strings.Builder
			err := Part{Name: "x", Subject: "ours"}.run(t.Context(), []string{"-out", out, "-version", "v9", "-as", "own"}, prepare, none, &table, io.Discard)
			if !errors.Is(err, fail) || !r.closed {
				t.Errorf("got %v, closed is %t", err, r.closed)
			}
			if _, err := os.Stat(r.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the scratch folder is still there: %v", err)
			}
			data, err := os.ReadFile(filepath.Join(out, "x-own.json"))
			if fail != nil {
				if !errors.Is(err, os.ErrNotExist) {
					t.Errorf("half a run left a report: %s, %v", data, err)
				}
				return
			}
			var got result.Report
			if err := errors.Join(err, json.Unmarshal(data, &got)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"x", "ours", "v9", "Nothing runs."}, []string{got.Part, got.Subject, got.Version, got.Setup[0]}); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if !strings.Contains(table.String(), "one") {
				t.Errorf("the table is %q", table.String())
			}
		})
	}
}
