package peers

import (
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/peers/agree"
)

// What comes from another gate, which may be broken, is refused or taken within its bounds, and a gate that took it still
// has a share that can be.
func FuzzMessage(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	s := agree.NewShares("a", time.Minute, now)
	s.Step(now)
	good, _ := message{From: "a", Now: now, Words: s.Words(now)}.encode()
	f.Add(good)
	f.Add([]byte(`{"version":1,"from":"x","rules":[{"id":"block-00000001","action":"Block","reason":"r","duration":"1h"}],"lifts":[{"id":"block-00000002","expires":"2027-01-15T08:00:00Z"}]}`))
	f.Add([]byte(`{"version":1,"from":"x","words":[{"name":"b","seq":9223372036854775807,"viewSeq":9223372036854775807,"view":"","bounds":{"b":1048576},"heard":{"c":1},"age":1e9}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if err != nil {
			return
		}
		if len(m.Words) > agree.MaxGates {
			t.Fatalf("%d words", len(m.Words))
		}
		own := agree.NewShares("c", time.Minute, now)
		for range 3 {
			own.Hear(m.Words, now)
			own.Reach([]string{m.From}, now)
			own.Step(now)
		}
		if part := own.Share(); part < 0 || part > agree.Whole {
			t.Fatalf("a share of %d", part)
		}
		l := agree.Merge(agree.Decisions{}, m.Decisions, now)
		if len(l.Rules) > agree.MaxRules || len(l.Lifts) > agree.MaxLifts {
			t.Fatalf("%d rules and %d lifts", len(l.Rules), len(l.Lifts))
		}
		if again := agree.Merge(l.Decisions, m.Decisions, now); again.News {
			t.Fatalf("heard twice is news: %+v", again)
		}
		if out, _ := (message{From: "c", Now: now, Decisions: l.Decisions, Words: own.Words(now)}).encode(); len(out) > maxMessage {
			t.Fatalf("it says %d bytes", len(out))
		}
	})
}
