package admit

import (
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/gate/admit/law"
)

// window gathers what requests told since the last tick, and how long those of each level take.
type window struct {
	mu                      sync.Mutex
	passive                 law.Passive
	slowness, weight        float64
	listBytes, mostListByte float64 // predicted, of what is under way

	meanMu sync.Mutex
	means  map[*level]time.Duration
}

func (w *window) add(o Outcome, ratio, weight float64, l *level) {
	w.mu.Lock()
	w.passive.Finished++
	switch {
	case o.TimedOut:
		w.passive.TimedOut++
	case o.Code >= 500 || o.Failed:
		w.passive.Errors++
	case o.Code == http.StatusTooManyRequests:
		w.passive.TooMany++
	}
	w.slowness += ratio * weight
	w.weight += weight
	w.mu.Unlock()

	w.meanMu.Lock()
	if w.means == nil {
		w.means = map[*level]time.Duration{}
	}
	w.means[l] += (o.Upstream - w.means[l]) / 16
	w.meanMu.Unlock()
}

// mean is about how long requests of the level take.
func (w *window) mean(l *level) time.Duration {
	w.meanMu.Lock()
	defer w.meanMu.Unlock()
	return w.means[l]
}

// underWay adds to the predicted bytes of the LISTs under way.
func (w *window) underWay(bytes float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listBytes += bytes
	w.mostListByte = max(w.mostListByte, w.listBytes)
}

// take returns what was gathered and begins anew.
func (w *window) take() law.Passive {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.passive
	if w.weight > 0 {
		p.Slowness = w.slowness / w.weight
	}
	p.ListBytes = w.mostListByte
	w.passive, w.slowness, w.weight, w.mostListByte = law.Passive{}, 0, 0, w.listBytes
	return p
}
