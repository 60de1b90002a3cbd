package cost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func learned(t testing.TB) *Model {
	t.Helper()
	w, m := newWorld(1), New(Config{})
	w.teach(m, pods, 200, false)
	watch := pods
	watch.Verb, watch.InitialEvents, watch.Media, watch.Version = "watch", true, Protobuf, NotOlderThan
	w.teach(m, watch, 30, false)
	w.bytes, w.median = 300, 0.004
	w.teach(m, lease, 30, false)
	w.teach(m, Shape{Verb: "get", Resource: "/openapi", Scope: "NonResource", Gzip: true}, 3, true)
	return m
}

func TestRestore(t *testing.T) {
	m := learned(t)
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	now := start.Add(10 * time.Minute)
	back := New(Config{})
	if err := back.Restore(data, now); err != nil {
		t.Fatal(err)
	}
	again, err := back.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(again)); diff != "" {
		t.Errorf("it is not what was saved (-want +got):\n%s", diff)
	}
	if _, _, ok := back.Ratio(pods, time.Second); !ok {
		t.Error("what was seen 200 times ten minutes ago is no evidence")
	}
	few := New(Config{MaxShapes: 2})
	if err := few.Restore(data, now); err != nil {
		t.Fatal(err)
	}
	if few.Len() != 2 || !few.Estimate(lease).Learned || few.Estimate(pods).Learned {
		t.Error("not the two seen last are left")
	}
}

// After a week, what was known is the first guess, and a few answers correct it.
func TestOldStateGivesWay(t *testing.T) {
	data, err := learned(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	w, m := newWorld(2), New(Config{})
	w.now = start.Add(7*24*time.Hour + time.Hour)
	if err := m.Restore(data, w.now); err != nil {
		t.Fatal(err)
	}
	within(t, "seconds before", m.Estimate(pods).Seconds, w.median, 0.2)
	if _, _, ok := m.Ratio(pods, time.Second); ok {
		t.Error("what was seen a week ago is evidence")
	}
	w.outlier, w.median, w.bytes = 0, w.median*3, w.bytes*3
	w.teach(m, pods, 6, false)
	within(t, "seconds", m.Estimate(pods).Seconds, w.median, 0.3)
	within(t, "bytes", float64(m.Estimate(pods).Bytes), w.bytes, 0.3)
}

// A gate that restarts often must not make what it knows look new.
func TestRestartsDoNotMakeYoung(t *testing.T) {
	data, err := learned(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for now := start; now.Before(start.Add(4 * 24 * time.Hour)); now = now.Add(10 * time.Hour) {
		m := New(Config{})
		if err := m.Restore(data, now); err != nil {
			t.Fatal(err)
		}
		if data, err = m.Marshal(); err != nil {
			t.Fatal(err)
		}
	}
	m := New(Config{})
	if err := m.Restore(data, start.Add(4*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if stats, _ := m.Stats(pods); stats.Confidence > 100>>3 {
		t.Errorf("after four days: %+v", stats)
	}
}

const (
	goodTracker = `{"median":0.1,"spread":0.2,"samples":30,"confidence":25}`
	goodSeen    = `"seen":"2026-01-02T03:04:05Z"`
	goodShape   = `{"verb":"list","resource":"pods","scope":"Cluster",` + goodSeen + `,"seconds":` + goodTracker + `}`
)

func ofShapes(shapes ...string) string {
	return `{"version":1,"shapes":[` + strings.Join(shapes, ",") + `]}`
}

func TestRestoreRefuses(t *testing.T) {
	change := func(from, to string) string {
		if !strings.Contains(goodShape, from) {
			t.Fatalf("%s is not there", from)
		}
		return ofShapes(strings.Replace(goodShape, from, to, 1))
	}
	tests := map[string]struct{ data, want string }{
		"nothing":                  {"", "decoding"},
		"another version":          {`{"version":2,"shapes":[]}`, "version 1, got 2"},
		"an unknown field":         {`{"version":1,"shapes":[],"more":1}`, "unknown field"},
		"something behind":         {ofShapes(goodShape) + "{}", "something follows"},
		"a shape twice":            {ofShapes(goodShape, goodShape), "shapes[1]: it is there twice"},
		"no verb":                  {change(`"list"`, `"LIST"`), `verb "LIST" is none`},
		"no scope":                 {change(`"Cluster"`, `"All"`), `scope "All" is none`},
		"no media":                 {change(`"scope"`, `"media":"xml","scope"`), `"xml" is none`},
		"a name that is too long":  {change(`"pods"`, `"`+strings.Repeat("x", 64)+`"`), "resource"},
		"a name that is none":      {change(`"pods"`, `"a b"`), "resource"},
		"initial events of a list": {change(`"scope"`, `"initialEvents":true,"scope"`), "initialEvents"},
		"a stream":                 {change(`"scope"`, `"stream":true,"scope"`), "stream"},
		"a negative time":          {change(`0.1`, `-0.1`), "seconds.median must be"},
		"no time":                  {change(`0.1`, `0`), "seconds.median must be"},
		"a time without end":       {change(`0.1`, `1e300`), "seconds.median must be"},
		"beyond numbers":           {change(`0.1`, `1e999`), "decoding"},
		"not a number":             {change(`0.1`, `NaN`), "decoding"},
		"a negative spread":        {change(`0.2`, `-1`), "seconds.spread must be"},
		"too much confidence":      {change(`25`, `101`), "seconds.confidence must be"},
		"none":                     {change(`25`, `0`), "seconds.confidence must be"},
		"more than there were":     {change(`30`, `24`), "seconds.samples must be"},
		"too many":                 {`{"version":1,"shapes":[{}` + strings.Repeat(",{}", mostShapes) + `]}`, "8192 shapes"},
		"too much":                 {strings.Repeat(" ", mostSaved+1), "bytes"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := learned(t)
			before, err := m.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Restore([]byte(tc.data), start); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
			if after, _ := m.Marshal(); !bytes.Equal(before, after) {
				t.Error("what was refused changed something")
			}
		})
	}
	if err := New(Config{}).Restore([]byte(ofShapes(goodShape)), start); err != nil {
		t.Errorf("and yet the good one is: %v", err)
	}
}

// What comes back from the most and longest shapes there can be is not too big to come back again.
func TestTheMostFits(t *testing.T) {
	m := New(Config{MaxShapes: mostShapes})
	for i := range mostShapes {
		long := []byte(strings.Repeat("x", longestGroup))
		copy(long, fmt.Sprint(i))
		label := strings.Repeat("x", longestResource)
		s := Shape{Verb: "deletecollection", Group: string(long), Resource: label, Subresource: label, Scope: "NonResource", Media: MetadataProtobuf, Gzip: true, Limit: Continued, Version: NotOlderThan, Selector: ByField}
		m.Observe(start, s, Sample{Upstream: 123456789, Bytes: 1 << 39, Code: 200})
	}
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > mostSaved {
		t.Fatalf("%d bytes", len(data))
	}
	if err := New(Config{}).Restore(data, start); err != nil {
		t.Error(err)
	}
}

func FuzzRestore(f *testing.F) {
	data, err := learned(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(ofShapes(goodShape)))
	f.Add([]byte(ofShapes(strings.ReplaceAll(goodShape, "0.1", "3600"))))
	f.Add([]byte(`{"version":1,"shapes":[{"verb":"watch","initialEvents":true,"resource":"pods","scope":"Cluster","seen":"9999-01-01T00:00:00Z","bytes":{"median":1e12,"spread":40,"samples":9007199254740992,"confidence":100}}]}`))
	f.Add([]byte(`{"version":1,"shapes":null}`))
	f.Add([]byte(`{"version":1,"shapes":[{"seen":"0001-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := New(Config{})
		if m.Restore(data, start) != nil {
			if m.Len() != 0 {
				t.Error("what was refused is there")
			}
			return
		}
		var in saved
		if err := json.Unmarshal(data, &in); err != nil {
			t.Fatal(err)
		}
		for i := range in.Shapes {
			s := in.Shapes[i].Shape
			for range 30 {
				if got := m.Estimate(s); got.Seats < 1 || got.Seats > 10 || !(got.Seconds > 0 && got.Seconds <= 2*mostSeconds) || got.Bytes < 0 || got.Bytes > 2*mostBytes {
					t.Fatalf("%+v is estimated %+v", s, got)
				}
				if ratio, weight, ok := m.Ratio(s, time.Second); ok && !(ratio > 0 && weight > 0 && weight <= 1) {
					t.Fatalf("%+v: ratio %v, weight %v", s, ratio, weight)
				}
				m.Observe(start, s, Sample{Upstream: 50 * time.Millisecond, Bytes: 1000, Code: 200})
			}
		}
		again, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := New(Config{}).Restore(again, start); err != nil {
			t.Fatalf("%s is not taken back: %v", again, err)
		}
	})
}
