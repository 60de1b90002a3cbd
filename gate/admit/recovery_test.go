package admit

import (
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/admit/law"
)

func TestRecovery(t *testing.T) {
	now := time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)
	server := func(name string, serving bool, started time.Time) law.Server {
		s := law.Server{Name: name, Serving: serving}
		if !started.IsZero() {
			s.Reading = &law.Reading{At: now, Started: started}
		}
		return s
	}
	old := now.Add(-time.Hour)
	var none time.Time
	for name, ticks := range map[string][]struct {
		servers []law.Server
		want    bool
	}{
		"a gate that starts before an old control plane": {
			{[]law.Server{server("a", true, none)}, false}, {[]law.Server{server("a", true, old)}, false},
		},
		"a gate that starts before a young one": {
			{[]law.Server{server("a", true, none)}, false}, {[]law.Server{server("a", true, now.Add(-5*time.Second))}, true},
			{[]law.Server{server("a", true, now.Add(-5*time.Second))}, false},
		},
		"all are out and one comes back": {
			{[]law.Server{server("a", true, old), server("b", true, old)}, false}, {[]law.Server{server("a", false, old), server("b", false, old)}, false},
			{[]law.Server{server("a", true, none), server("b", false, none)}, true}, {[]law.Server{server("a", true, none), server("b", false, none)}, false},
		},
		"one of two is out and comes back the same": {
			{[]law.Server{server("a", true, old), server("b", true, old)}, false}, {[]law.Server{server("a", true, old), server("b", false, old)}, false},
			{[]law.Server{server("a", true, old), server("b", true, old)}, false},
		},
		"one of two is restarted": {
			{[]law.Server{server("a", true, old), server("b", true, old)}, false}, {[]law.Server{server("a", true, old), server("b", true, now)}, true},
		},
		"a start that is told with other digits": {
			{[]law.Server{server("a", true, old)}, false}, {[]law.Server{server("a", true, old.Add(time.Millisecond))}, false},
		},
		"nobody says anything": {{nil, false}, {nil, false}},
	} {
		t.Run(name, func(t *testing.T) {
			var r recovery
			for i, tick := range ticks {
				if why := r.notice(now, tick.servers); (why != "") != tick.want {
					t.Errorf("tick %d: %q, want %t", i, why, tick.want)
				}
			}
		})
	}
}
