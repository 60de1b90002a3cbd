package bypass_test

import (
	"fmt"

	"github.com/seakeep/seakeep/gate/bypass"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/signals"
)

func ExampleCompare() {
	lists := signals.RequestKind{Verb: "LIST", Resource: "pods"}
	server := signals.RequestChange{Seconds: 30, Answered: map[signals.RequestKind]float64{lists: 100}, Self: map[signals.RequestKind]float64{}}
	forwarded := [2]ledger.Totals{{}, {Rows: []ledger.Forwarded{{Verb: "list", Resource: "pods", Ended: 75}}}}
	report := bypass.Compare([]signals.RequestChange{server}, nil, []bypass.GateReading{{Outer: forwarded, Inner: forwarded}})
	fmt.Printf("%d of %d went round the gate", report.Total.Round, report.Total.APIServers)
	// Output: 25 of 100 went round the gate
}
