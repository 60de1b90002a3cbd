package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/flow"
)

func TestTotals(t *testing.T) {
	now := time.Unix(1700000000, 0)
	l := New(Options{MaxClients: 16, Clock: func() time.Time { return now }})
	request := func(user, verb, resource string) *flow.Request {
		return &flow.Request{Caller: flow.Caller{User: user}, Verb: verb, Resource: resource}
	}
	// More clients than the ranking keeps: the totals miss none of them.
	for i := range 100 {
		l.Record(request(fmt.Sprint("user-", i), "list", "pods"), Outcome{Code: 200})
	}
	l.Record(request("a", "get", "pods"), Outcome{Code: 404})
	l.Record(request("a", "get", "pods"), Outcome{Code: 403})
	l.Record(request("a", "get", "pods"), Outcome{Code: 502, Unanswered: true})
	l.Record(request("a", "get", "pods"), Outcome{Code: 429, RejectedBy: RejectedLimit})
	watch := request("a", "watch", "nodes")
	l.Opened(watch)
	l.Opened(watch)
	l.Record(watch, Outcome{Open: true, SeatSeconds: 1})
	l.Closed(watch, Outcome{Code: 200})
	l.Started()
	l.Started()
	l.Finished()

	want := Totals{Taken: now, Since: now, InFlight: 0, Rows: []Forwarded{
		{Verb: "get", Resource: "pods", Ended: 3, Uncertain: 2},
		{Verb: "list", Resource: "pods", Ended: 100},
		{Verb: "watch", Resource: "nodes", Ended: 1, Open: 1},
	}}
	if diff := cmp.Diff(want, l.Totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	l.Started()
	if got := l.Totals().InFlight; got != 1 {
		t.Errorf("in flight: want the one request that is no stream, got %d", got)
	}
}

// What clients invent is bounded.
func TestTotalsAreBounded(t *testing.T) {
	l := New(Options{MaxClients: 16})
	for i := range 3 * maxForwarded {
		l.Record(&flow.Request{Verb: "get", Resource: fmt.Sprint("resource-", i)}, Outcome{Code: 404})
	}
	rows, counted := l.Totals().Rows, int64(0)
	for _, row := range rows {
		counted += row.Ended
	}
	if len(rows) != maxForwarded+1 || counted != 3*maxForwarded {
		t.Errorf("want %d rows and %d requests, got %d and %d", maxForwarded+1, 3*maxForwarded, len(rows), counted)
	}
}
