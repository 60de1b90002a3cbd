package survive

import (
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// Pretend begins an outage for the store alone, so that a test can ask an API server the same.
func (s *Store) Pretend() {
	s.outage.mu.Lock()
	defer s.outage.mu.Unlock()
	s.outage.gone = make(chan struct{})
}

// Grant grants what the request asks.
func (s *Store) Grant(f *flow.Request) {
	s.grants.granted(s.grants.caller(&f.Caller), rightOf(f), time.Now())
}
