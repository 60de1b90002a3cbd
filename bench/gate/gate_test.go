package main

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seakeep/seakeep/bench/load"
)

func TestParse(t *testing.T) {
	none := func(string) string { return "" }
	for name, tc := range map[string]struct {
		args    []string
		seconds string
		turn    time.Duration
		wantErr bool
	}{
		"as it is":               {turn: 3 * time.Second},
		"quick":                  {seconds: "1", turn: time.Second},
		"a flag wins":            {args: []string{"-turn", "2s"}, seconds: "1", turn: 2 * time.Second},
		"no number":              {seconds: "fast", wantErr: true},
		"too short":              {args: []string{"-turn", "1ms"}, wantErr: true},
		"no round":               {args: []string{"-rounds", "0"}, wantErr: true},
		"a broken expression":    {args: []string{"-only", "("}, wantErr: true},
		"too few pods for it":    {args: []string{"-pods", "10"}, wantErr: true},
		"a flag that is not one": {args: []string{"-loud"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			getenv := none
			if tc.seconds != "" {
				getenv = func(string) string { return tc.seconds }
			}
			o, err := parse(tc.args, getenv, io.Discard)
			if (err != nil) != tc.wantErr || err == nil && o.Turn != tc.turn {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

// Events come in pieces, as the network likes, and several at once.
func TestWatchersReadEvents(t *testing.T) {
	const stream = `{"type":"MODIFIED","object":{"data":{"at":"100"}}}` + "\n" + `{"type":"MODIFIED","object":{"data":{"at":"200"}}}` + "\n"
	for name, body := range map[string]io.Reader{
		"whole":        strings.NewReader(stream),
		"byte by byte": iotest.OneByteReader(strings.NewReader(stream)),
		"halves":       iotest.HalfReader(strings.NewReader(stream)),
	} {
		t.Run(name, func(t *testing.T) {
			w := &watchers{latency: load.NewHistogram()}
			if err := w.read(body); err != io.EOF {
				t.Errorf("got %v", err)
			}
			if w.events.Load() != 2 || w.latency.Count() != 2 {
				t.Errorf("%d events were seen", w.events.Load())
			}
		})
	}
	for name, event := range map[string]string{
		"an error":  `{"type":"ERROR","object":{"code":410}}` + "\n",
		"no number": `{"data":{"at":"soon"}}` + "\n",
		"no end":    strings.Repeat("x", 2000),
	} {
		t.Run(name, func(t *testing.T) {
			w := &watchers{latency: load.NewHistogram()}
			if err := w.read(strings.NewReader(event)); err == nil || err == io.EOF {
				t.Errorf("got %v: a watch that breaks must be noticed", err)
			}
		})
	}
}
