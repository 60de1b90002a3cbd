package choice

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEvening(t *testing.T) {
	in := func(streams int) Share { return Share{Streams: streams, Movable: streams, Takes: true} }
	for name, test := range map[string]struct {
		shares []Share
		want   []int // within one second
	}{
		"alike":                            {[]Share{in(100), in(95), in(105)}, []int{0, 0, 0}},
		"few":                              {[]Share{in(6), in(0), in(0)}, []int{0, 0, 0}},
		"one came back":                    {[]Share{in(600), in(580), in(0)}, []int{10, 0, 0}},
		"no further than it takes":         {[]Share{in(60), in(50), in(40)}, []int{5, 0, 0}},
		"nothing that may not be":          {[]Share{{Streams: 600, Movable: 3, Takes: true}, in(10), in(0)}, []int{3, 0, 0}},
		"the only one keeps all":           {[]Share{in(600)}, []int{0}},
		"half open: none there, none from": {[]Share{in(100), in(100), {Streams: 0}}, []int{0, 0, 0}},
		"who is out loses all, more readily": {[]Share{in(100), in(100), {Streams: 100, Movable: 100, OutFor: time.Minute}},
			[]int{0, 0, 40}},
		"but not for an election":        {[]Share{in(100), in(100), {Streams: 100, Movable: 100, OutFor: 2 * time.Second}}, []int{0, 0, 0}},
		"nobody takes them: they stay":   {[]Share{{Streams: 100, Movable: 100, OutFor: time.Minute}, {Streams: 100, Movable: 100, OutFor: time.Minute}}, []int{0, 0}},
		"who leaves is first to be paid": {[]Share{in(600), in(0), {Streams: 36, Movable: 36, OutFor: time.Minute}}, []int{1, 0, 36}},
	} {
		t.Run(name, func(t *testing.T) {
			e := Evening{PerSecond: 10}
			e.Step(epoch, test.shares)
			if diff := cmp.Diff(test.want, e.Step(epoch.Add(time.Second), test.shares)); diff != "" {
				t.Errorf("ended (-want +got):\n%s", diff)
			}
		})
	}
}

// A server that comes back is filled at the budget's pace, and then nothing moves any more.
func TestEveningSettles(t *testing.T) {
	e := Evening{PerSecond: 10}
	streams := []int{500, 500, 0}
	now, moved, last := epoch, 0, 0
	for second := range 120 {
		var shares []Share
		for _, n := range streams {
			shares = append(shares, Share{Streams: n, Movable: n, Takes: true})
		}
		ended := 0
		for i, n := range e.Step(now, shares) {
			streams[i] -= n
			streams[2] += n // the fewest get the next
			ended += n
		}
		if ended > 10 {
			t.Fatalf("%d were ended in one second", ended)
		}
		if moved += ended; ended > 0 {
			last = second
		}
		now = now.Add(time.Second)
	}
	if streams[0] > 367 || streams[1] > 367 || streams[2] < 266 || last > 60 {
		t.Errorf("after %d moves, the last at %ds: %v", moved, last, streams)
	}
}
