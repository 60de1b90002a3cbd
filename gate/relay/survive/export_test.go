package survive

import (
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/internal/statefile"
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

// SaveForeign puts files of another cluster into the folder: a service, and a grant for the user to list services.
func SaveForeign(t testing.TB, dir, cluster, user string) {
	t.Helper()
	saved(t, dir, cluster, keptServices(t, 7, service("default", "theirs", 7, nil)))
	s := &Store{cluster: cluster, grants: newGrants(time.Hour, false), metrics: newMetrics(nil, nil), grantFile: statefile.New(dir, "relay-grants", schemaVersion)}
	s.grants.granted(s.grants.subject(user, "", nil, nil), right{Verb: "list", Version: "v1", Resource: "services"}, time.Now())
	s.saveGrants()
}
