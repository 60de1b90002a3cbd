package observe

import (
	"maps"
	"slices"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// leastLike is how many requests of one like a step must have for their lower quartile to be told; the others are taken as long
// as they took.
const leastLike = 4

// AddService adds to samples what their requests would hold if none waited (forecast.Service): each at the lower quartile of its
// like on that step. Three in four may wait for processors that others take, and it is still right; whereas a mean is off by what
// the slowest one waits. It is told for each step by itself, so that a request that takes longer because more nodes run the
// component still shows. samples are windows in the order of their time, which do not overlap.
func AddService(samples []forecast.Sample, requests []Request) {
	type call struct {
		window int
		took   time.Duration
	}
	steps := map[int]map[string][]call{} // by exposure and like
	for _, r := range requests {
		i, found := slices.BinarySearchFunc(samples, r.Start, func(s forecast.Sample, at time.Time) int {
			switch {
			case !at.Before(s.To):
				return -1
			case at.Before(s.From):
				return 1
			}
			return 0
		})
		if !found || r.Took <= 0 {
			continue
		}
		likes := steps[samples[i].Exposed]
		if likes == nil {
			likes = map[string][]call{}
			steps[samples[i].Exposed] = likes
		}
		likes[r.Like] = append(likes[r.Like], call{i, r.Took})
	}
	for i := range samples {
		samples[i].Cost[forecast.Service] = 0
	}
	for _, likes := range steps {
		for _, like := range slices.Sorted(maps.Keys(likes)) {
			calls := likes[like]
			if len(calls) < leastLike {
				for _, c := range calls {
					samples[c.window].Cost[forecast.Service] += c.took.Seconds() / seconds(samples[c.window])
				}
				continue
			}
			windows := map[int]int{}
			var all []time.Duration
			for _, c := range calls {
				windows[c.window]++
				all = append(all, c.took)
			}
			whole := lowerQuartile(all)
			for w, n := range windows {
				// The quartile without this window says by how much it may be off: a pseudo-value each, after Tukey, so that windows
				// scatter as they must.
				var rest []time.Duration
				for _, c := range calls {
					if c.window != w {
						rest = append(rest, c.took)
					}
				}
				took := whole
				if m := float64(len(windows)); len(rest) >= leastLike {
					took = max(0, m*whole-(m-1)*lowerQuartile(rest))
				}
				samples[w].Cost[forecast.Service] += float64(n) * took / seconds(samples[w])
			}
		}
	}
}

func seconds(s forecast.Sample) float64 { return s.To.Sub(s.From).Seconds() }

// lowerQuartile is in seconds.
func lowerQuartile(all []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(all))
	at := 0.25 * float64(len(sorted)-1)
	i := int(at)
	next := sorted[min(i+1, len(sorted)-1)]
	return sorted[i].Seconds() + (at-float64(i))*(next-sorted[i]).Seconds()
}
