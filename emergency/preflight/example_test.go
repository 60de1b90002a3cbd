package preflight_test

import (
	"fmt"

	"github.com/seakeep/seakeep/emergency/preflight"
)

func ExampleJudge() {
	facts := &preflight.Facts{Provider: preflight.Known(preflight.Provider{Name: "Amazon EKS", Managed: true})}
	results, err := preflight.Judge(facts, preflight.GateProxy)
	if err != nil {
		panic(err)
	}
	fmt.Println(results[0].Status, results[0].Change)
	// Output: impossible [use identity.mode: Impersonation]
}
