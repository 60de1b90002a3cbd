package bypass

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/signals"
)

func rk(verb, resource, subresource string) signals.RequestKind {
	return signals.RequestKind{Verb: verb, Resource: resource, Subresource: subresource}
}

// still is a gate that forwarded n of each row between two moments, with nothing in between that is in doubt.
func still(rows ...ledger.Forwarded) GateReading {
	before, after := ledger.Totals{}, ledger.Totals{Rows: rows}
	return GateReading{Outer: [2]ledger.Totals{before, after}, Inner: [2]ledger.Totals{before, after}}
}

func TestCompare(t *testing.T) {
	type want struct {
		Share, AtLeast, AtMost float64
		Rows                   []Row
		Warnings               int
	}
	row := func(verb, resource string, servers, self, gates, round, atLeast, atMost int64) Row {
		return Row{Kind{verb, resource}, servers, self, gates, round, atLeast, atMost}
	}
	half := still(ledger.Forwarded{Verb: "list", Resource: "pods", Ended: 50}, ledger.Forwarded{Verb: "connect", Resource: "pods/exec", Ended: 1})
	unsure := still(ledger.Forwarded{Verb: "get", Resource: "pods", Ended: 60, Uncertain: 10})
	blurred := GateReading{
		Outer: [2]ledger.Totals{{}, {Rows: []ledger.Forwarded{{Verb: "get", Resource: "pods", Ended: 64}}}},
		Inner: [2]ledger.Totals{{}, {Rows: []ledger.Forwarded{{Verb: "get", Resource: "pods", Ended: 60}}}},
	}
	busy := still(ledger.Forwarded{Verb: "get", Resource: "pods", Ended: 60})
	busy.Inner[1].InFlight = 3
	restarted := still(ledger.Forwarded{Verb: "get", Resource: "pods", Ended: 60})
	restarted.Outer[1].Since = time.Unix(1, 0)
	gets := []signals.RequestChange{{Seconds: 30, Answered: map[signals.RequestKind]float64{rk("GET", "pods", ""): 100}, Self: map[signals.RequestKind]float64{}}}

	for name, tc := range map[string]struct {
		servers []signals.RequestChange
		gates   []GateReading
		want    want
	}{
		"half goes round, over two API servers; their own requests are no part of it": {
			[]signals.RequestChange{
				{Seconds: 30, Answered: map[signals.RequestKind]float64{rk("LIST", "pods", ""): 60, rk("PUT", "leases", ""): 3, rk("CONNECT", "pods", "exec"): 1},
					Self: map[signals.RequestKind]float64{rk("PUT", "leases", ""): 3}},
				{Seconds: 31, Answered: map[signals.RequestKind]float64{rk("LIST", "pods", ""): 40}, Self: map[signals.RequestKind]float64{}},
			},
			[]GateReading{half},
			want{Share: 50.0 / 101, AtLeast: 50.0 / 101, AtMost: 50.0 / 101, Rows: []Row{row("list", "pods", 100, 0, 50, 50, 50, 50)}},
		},
		"everything comes through": {
			gets, []GateReading{still(ledger.Forwarded{Verb: "get", Resource: "pods", Ended: 100})},
			want{Rows: []Row{}},
		},
		"no gate was asked": {
			gets, nil,
			want{Share: 1, AtLeast: 1, AtMost: 1, Rows: []Row{row("get", "pods", 100, 0, 0, 100, 100, 100)}},
		},
		"refused at the API server's door: it may not have counted them": {
			gets, []GateReading{unsure},
			want{Share: .45, AtLeast: .40, AtMost: .50, Rows: []Row{row("get", "pods", 100, 0, 55, 45, 40, 50)}},
		},
		"the gate went on while the API server was read": {
			gets, []GateReading{blurred},
			want{Share: .38, AtLeast: .36, AtMost: .40, Rows: []Row{row("get", "pods", 100, 0, 62, 38, 36, 40)}},
		},
		"requests on their way": {
			gets, []GateReading{busy},
			want{Share: .40, AtLeast: .37, AtMost: .43, Rows: []Row{row("get", "pods", 100, 0, 60, 40, 37, 43)}},
		},
		"what only the gate counts is left out": {
			gets, []GateReading{still(ledger.Forwarded{Verb: "get", Resource: "pods", Ended: 100}, ledger.Forwarded{Verb: "get", Resource: "/apis", Ended: 70})},
			want{Rows: []Row{}},
		},
		"the gate was restarted": {
			gets, []GateReading{restarted},
			want{Share: .4, AtLeast: .4, AtMost: .4, Rows: []Row{row("get", "pods", 100, 0, 60, 40, 40, 40)}, Warnings: 1},
		},
		"an API server was restarted, and does not count itself": {
			[]signals.RequestChange{{Seconds: 30, Restarted: true, Answered: map[signals.RequestKind]float64{rk("GET", "", "/readyz"): 2}}}, nil,
			want{Share: 1, AtLeast: 1, AtMost: 1, Rows: []Row{row("get", "/readyz", 2, 0, 0, 2, 2, 2)}, Warnings: 2},
		},
		"nothing happened": {[]signals.RequestChange{{Seconds: 30, Self: map[signals.RequestKind]float64{}}}, nil, want{Rows: []Row{}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Compare(tc.servers, nil, tc.gates)
			if diff := cmp.Diff(tc.want, want{got.Share, got.ShareAtLeast, got.ShareAtMost, got.Rows, len(got.Warnings)}); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompareOpenStreams(t *testing.T) {
	gate := still(ledger.Forwarded{Verb: "watch", Resource: "pods", Open: 3})
	open := []map[signals.RequestKind]float64{{rk("WATCH", "pods", ""): 4, rk("WATCH", "nodes", ""): 1}, {rk("WATCH", "pods", ""): 2}}
	want := []OpenRow{{Kind{"watch", "pods"}, 6, 3, 3}, {Kind{"watch", "nodes"}, 1, 0, 1}}
	if diff := cmp.Diff(want, Compare(nil, open, []GateReading{gate}).Open); diff != "" {
		t.Errorf("open streams (-want +got):\n%s", diff)
	}
}

func TestKinds(t *testing.T) {
	for name, tc := range map[string]struct {
		server signals.RequestKind
		verb   string
		path   string
	}{
		"apply is a patch":              {rk("APPLY", "flowschemas", "status"), "patch", "flowschemas/status"},
		"create":                        {rk("POST", "pods", ""), "create", "pods"},
		"a collection":                  {rk("DELETECOLLECTION", "pods", ""), "deletecollection", "pods"},
		"exec":                          {rk("CONNECT", "pods", "exec"), "create", "pods/exec"},
		"a log that is not followed":    {rk("CONNECT", "pods", "log"), "get", "pods/log"},
		"a path":                        {rk("GET", "", "/readyz"), "get", "/readyz"},
		"a path, written the other way": {rk("GET", "", "openapi/v3"), "get", "/openapi"},
	} {
		t.Run(name, func(t *testing.T) {
			if server, gate := kindOf(tc.server), kindOfGate(tc.verb, tc.path); server != gate {
				t.Errorf("the API server's is %v, the gate's %v", server, gate)
			}
		})
	}
}
