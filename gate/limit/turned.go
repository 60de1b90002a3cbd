package limit

import (
	"cmp"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// The ledger of who is turned away: a minute in slots, and a bound on the clients remembered. What does not fit is
// counted as one client called others, so the sum is always right.
const (
	slots      = 12
	slotLength = 5 * time.Second
	maxTurned  = 512
	others     = "(others)"
)

type turnedKey struct {
	rule, user, agent string
	reason            Reason
	emergency         bool
}

type turnedCount struct {
	counts [slots]int
	slot   int64 // the newest slot counted, since the epoch
	last   time.Time
}

// turnedAway counts rejections by rule × user × user agent over the last minute.
type turnedAway struct {
	mu      sync.Mutex
	clients map[turnedKey]*turnedCount
	swept   int64
}

func slotOf(now time.Time) int64 { return now.UnixNano() / int64(slotLength) }

func (t *turnedAway) add(r *Rejection, f *flow.Request, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clients == nil {
		t.clients = make(map[turnedKey]*turnedCount)
	}
	k := turnedKey{rule: r.Rule, user: shorten(f.Caller.User), agent: shorten(f.UserAgent), reason: r.reason, emergency: r.Emergency}
	c := t.clients[k]
	if c == nil && len(t.clients) >= maxTurned {
		t.sweep(slotOf(now))
		if len(t.clients) >= maxTurned {
			k.user, k.agent = others, others
			c = t.clients[k] // one more per rule and reason: bounded by the configuration
		}
	}
	if c == nil {
		c = &turnedCount{slot: slotOf(now)}
		t.clients[k] = c
	}
	c.advance(slotOf(now))
	c.counts[c.slot%slots]++
	c.last = now
}

// sweep forgets who was not turned away in the last minute; at most once a slot, as it walks them all.
func (t *turnedAway) sweep(slot int64) {
	if t.swept == slot {
		return
	}
	t.swept = slot
	for k, c := range t.clients {
		if slot-c.slot >= slots {
			delete(t.clients, k)
		}
	}
}

// advance clears the slots that passed since the last count.
func (c *turnedCount) advance(slot int64) {
	for c.slot < slot {
		if slot-c.slot >= slots {
			c.counts, c.slot = [slots]int{}, slot
			return
		}
		c.slot++
		c.counts[c.slot%slots] = 0
	}
}

func (t *turnedAway) list(now time.Time) []v1alpha1.RejectedClient {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]v1alpha1.RejectedClient, 0, len(t.clients))
	for k, c := range t.clients {
		c.advance(slotOf(now))
		sum := 0
		for _, n := range c.counts {
			sum += n
		}
		if sum == 0 {
			delete(t.clients, k)
			continue
		}
		list = append(list, v1alpha1.RejectedClient{Rule: k.rule, Reason: string(k.reason), Emergency: k.emergency,
			User: k.user, UserAgent: k.agent, Count: sum, Last: metav1.NewTime(c.last)})
	}
	slices.SortFunc(list, func(a, b v1alpha1.RejectedClient) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.User, b.User), cmp.Compare(a.Rule, b.Rule),
			cmp.Compare(a.UserAgent, b.UserAgent))
	})
	return list
}
