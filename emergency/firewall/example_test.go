package firewall_test

import (
	"fmt"
	"time"

	"github.com/seakeep/seakeep/emergency/firewall"
)

func ExamplePlan_Validate() {
	gate, err := firewall.ParseSource("10.0.0.11", "gate")
	if err != nil {
		panic(err)
	}
	plan := firewall.Plan{Kind: firewall.NFTables, Ports: []uint16{6443}, Sources: []firewall.Source{gate}, For: 25 * time.Hour}
	fmt.Println(plan.Validate())
	// Output: the rules must end after 1s to 24h0m0s, got 25h0m0s
}
