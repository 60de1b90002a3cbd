package verdict

import "time"

// Pods is what one look at the workload adds to a course over hours.
type Pods struct {
	// Update are the pods of the update revision, Stable those of the one before.
	Update PodCount `json:"update"`
	Stable PodCount `json:"stable"`
}

// PodCount counts the pods of one revision at one look.
type PodCount struct {
	// Pods is how many there are, Late how many of them are not ready and should be.
	Pods int `json:"pods"`
	Late int `json:"late,omitempty"`
	// Restarts are those since the look before, PodHours the hours that these pods were watched for meanwhile, together.
	Restarts int     `json:"restarts,omitempty"`
	PodHours float64 `json:"podHours,omitempty"`
}

// Count counts what was seen at a look, with what was seen at the one before. Before the first look nothing was watched, so that
// restarts of long ago are not taken for new ones.
func (w Workload) Count(before *Workload, within time.Duration) Pods {
	var was Workload
	if before != nil {
		was = *before
	}
	earlier := w.At.Sub(was.At)
	return Pods{Update: count(w.Update, was.Update, w.At, earlier, within), Stable: count(w.Stable, was.Stable, w.At, earlier, within)}
}

func count(pods, before []Pod, now time.Time, earlier, within time.Duration) PodCount {
	n := PodCount{Pods: len(pods)}
	was := map[string]Pod{}
	for _, p := range before {
		was[p.Name] = p
	}
	for _, p := range pods {
		if p.late(now, within) {
			n.Late++
		}
		// A name that is used again is another pod.
		if old, ok := was[p.Name]; ok && old.Created.Equal(p.Created) && earlier > 0 {
			n.Restarts += max(0, p.Restarts-old.Restarts)
			n.PodHours += earlier.Hours()
		}
	}
	return n
}
