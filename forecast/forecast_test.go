package forecast

import (
	"math"
	"strings"
	"testing"
	"time"
)

func good() Sample {
	return Sample{Cluster: "c", Nodes: 10, Exposed: 1, From: epoch, To: epoch.Add(time.Minute), Cost: map[Kind]float64{Seats: 1}}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Sample)
		want   string // in the error; "" for none
	}{
		"as it should be":          {func(*Sample) {}, ""},
		"no cluster":               {func(s *Sample) { s.Cluster = "" }, "cluster"},
		"no node":                  {func(s *Sample) { s.Nodes = 0 }, "nodes"},
		"more exposed than nodes":  {func(s *Sample) { s.Exposed = 11 }, "exposed"},
		"exposed less than nobody": {func(s *Sample) { s.Exposed = -1 }, "exposed"},
		"no time":                  {func(s *Sample) { s.To = s.From }, "to"},
		"time that runs back":      {func(s *Sample) { s.To = s.From.Add(-time.Second) }, "to"},
		"no cost":                  {func(s *Sample) { s.Cost = nil }, "cost"},
		"a cost that is none":      {func(s *Sample) { s.Cost[Seats] = math.NaN() }, "seats"},
		"less than nothing":        {func(s *Sample) { s.Cost[Seats] = -1 }, "seats"},
		"infinite":                 {func(s *Sample) { s.Server = map[Kind]float64{CPU: math.Inf(1)} }, "cpu"},
		"twice":                    {func(s *Sample) { s.Server = map[Kind]float64{Seats: 3} }, "both"},
		"starts without a startup": {func(s *Sample) { s.Started = 1 }, "startup"},
		"censored by nobody known": {func(s *Sample) { s.Censored = "fate" }, "censored"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			tc.change(&s)
			_, err := Fit([]Sample{s}, Options{})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{PriorExponent: -1}, {PriorSpread: math.NaN()}, {ModelError: 2}, {ClusterError: math.Inf(1)}, {Window: -time.Second}, {Period: -1},
	} {
		if _, err := Fit(nil, o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// A step whose nodes made two requests each was held for long enough, whatever the lengths of the windows do to its rates.
func TestTwoRequestsAreTwo(t *testing.T) {
	for window := 5 * time.Second; window < 6*time.Second; window += 777 * time.Microsecond {
		var all []Sample
		for i := range 12 {
			from := epoch.Add(time.Duration(i) * window)
			s := Sample{Cluster: "c", Nodes: 30, Exposed: 1 + 2*(i/6), From: from, To: from.Add(window)}
			made := 0.0
			if i%3 == 1 {
				made = float64(s.Exposed)
			}
			s.Cost = map[Kind]float64{Seats: made / 10, Requests: made / window.Seconds()}
			all = append(all, s)
		}
		m, err := Fit(all, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if p := m.Predict(At{Cluster: "c", Nodes: 30}); p.Unknown != "" {
			t.Fatalf("with windows of %v: %s", window, p.Unknown)
		}
	}
}

// Intervals stay intervals, whatever the samples: the lower bound is not over the mean, nor that over the upper; nothing is NaN.
func FuzzIntervals(f *testing.F) {
	f.Add(0.01, 0.011, 0.03, 0.031, 0.0, uint16(300), uint16(3), uint8(60))
	f.Add(0.0, 0.0, 0.0, 0.0, 5.0, uint16(1), uint16(1), uint8(1))
	f.Add(1e300, 1e-300, 1e200, 0.0, 1e300, uint16(65535), uint16(9), uint8(255))
	f.Fuzz(func(t *testing.T, a, b, c, d, zero float64, nodes, exposed uint16, seconds uint8) {
		total := max(1, int(nodes))
		var all []Sample
		for i, v := range []float64{a, b, c, d, zero, zero} {
			n := []int{1, 1, int(exposed), int(exposed), 0, 0}[i]
			s := Sample{Cluster: "c", Nodes: total, Exposed: min(n, total), From: epoch, To: epoch.Add(time.Duration(seconds)*time.Second + 1)}
			s.Cost = map[Kind]float64{Seats: v, Requests: 10}
			all = append(all, s)
		}
		m, err := Fit(all, Options{})
		if err != nil {
			return
		}
		for _, at := range []At{{Cluster: "c", Nodes: total}, {Cluster: "other", Nodes: 4 * total, StartRate: 1}} {
			p := m.Predict(at)
			for kind, i := range p.Kinds {
				if math.IsNaN(i.Mean) || math.IsNaN(i.Lower) || math.IsNaN(i.Upper) || i.Lower < 0 || !i.Unbounded && (i.Lower > i.Mean*1.000001 || i.Mean > i.Upper*1.000001) {
					t.Errorf("%s at %+v of %+v: %+v", kind, at, all, i)
				}
			}
			if j := Judge(p, Capacity{Kinds: map[Kind]Room{Seats: {Capacity: 10, Used: 1}}}); j.Outcome == "" || j.Reason == "" {
				t.Errorf("no verdict: %+v", j)
			}
		}
	})
}
