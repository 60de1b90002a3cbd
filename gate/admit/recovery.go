package admit

import (
	"fmt"
	"time"

	"github.com/seakeep/seakeep/gate/admit/law"
)

// young is how long an API server that this gate meets for the first time counts as one that just came back: its clients have
// not all found it yet.
const young = 30 * time.Second

// recovery notices that a control plane comes back. Everyone who was cut off then LISTs and watches at once, and an API server
// has never been less ready for it: its caches are cold (kubernetes/kubernetes#65954, #86483).
type recovery struct {
	began   bool
	serving int
	started map[string]time.Time
}

// notice returns why the control plane is taken to come back at this tick, "" when it is not.
func (r *recovery) notice(now time.Time, servers []law.Server) (why string) {
	if r.started == nil {
		r.started = map[string]time.Time{}
	}
	serving := 0
	for _, s := range servers {
		if s.Serving {
			serving++
		}
		if s.Reading == nil || s.Reading.Started.IsZero() {
			continue
		}
		started := s.Reading.Started
		before, known := r.started[s.Name]
		r.started[s.Name] = started
		switch {
		case known && started.Sub(before) > time.Second:
			why = fmt.Sprintf("API server %s was restarted", s.Name)
		case !known && now.Sub(started) < young:
			why = fmt.Sprintf("API server %s was started %s ago", s.Name, now.Sub(started).Round(time.Second))
		}
	}
	if r.began && r.serving == 0 && serving > 0 {
		why = "requests are answered again"
	}
	r.began, r.serving = true, serving
	return why
}
