package gate

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/tracing"
	"github.com/seakeep/seakeep/gate/upstream"
)

// Every request passes these calls. With tracing and access log off, as shipped, they may not cost an allocation.
func TestObservingNothingCostsNothing(t *testing.T) {
	g := &Gate{}
	g.observers.Store(&observers{})
	r := httptest.NewRequest(http.MethodGet, "https://gate/api/v1/pods?limit=500", nil)
	r.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f := &flow.Request{Verb: "list", Resource: "pods"}
	answer := http.Header{"Audit-Id": {"id"}}
	if n := testing.AllocsPerRun(1000, func() {
		seen := g.observe(r, time.Time{})
		seen.enter(tracing.Identity)
		seen.enter(tracing.Limit)
		seen.forward(r.Header)
		result := upstream.Result{Code: http.StatusOK}
		seen.answered(f, &result, answer)
		outcome := ledger.Outcome{Code: http.StatusTooManyRequests}
		seen.refused(f, &outcome)
		seen.end()
	}); n != 0 {
		t.Errorf("%g allocations a request", n)
	}
	if got := r.Header.Get("traceparent"); got[len(got)-2:] != "01" {
		t.Errorf("a gate that does not trace changes the client's traceparent to %s", got)
	}
}

func BenchmarkObservingNothing(b *testing.B) {
	g := &Gate{}
	g.observers.Store(&observers{})
	r := httptest.NewRequest(http.MethodGet, "https://gate/api/v1/pods?limit=500", nil)
	f := &flow.Request{Verb: "list", Resource: "pods"}
	for b.Loop() {
		seen := g.observe(r, time.Time{})
		seen.enter(tracing.Identity)
		seen.enter(tracing.Limit)
		seen.forward(r.Header)
		seen.answered(f, &upstream.Result{Code: http.StatusOK}, r.Header)
		seen.end()
	}
}
