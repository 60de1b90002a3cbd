package forecast_test

import (
	"fmt"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// A component on one and on three nodes of a cluster of 300, and what it would cost on all of them.
func Example() {
	var samples []forecast.Sample
	at := time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		nodes int
		seats []float64
	}{{0, []float64{0, 0}}, {1, []float64{.030, .031, .029}}, {3, []float64{.090, .088, .091}}} {
		for _, seats := range step.seats {
			samples = append(samples, forecast.Sample{
				Cluster: "production", Nodes: 300, Exposed: step.nodes, From: at, To: at.Add(time.Minute),
				Cost: map[forecast.Kind]float64{forecast.Seats: seats, forecast.Requests: 0.1 * float64(step.nodes)},
			})
			at = at.Add(time.Minute)
		}
	}
	model, err := forecast.Fit(samples, forecast.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	prediction := model.Predict(forecast.At{Cluster: "production", Nodes: 300})
	verdict := forecast.Judge(prediction, forecast.Capacity{Kinds: map[forecast.Kind]forecast.Room{forecast.Seats: {Capacity: 10, Used: 2}}})
	fmt.Println(verdict.Outcome)
	fmt.Println(verdict.Reason)
	// Output:
	// Fail
	// 8.97 of seats (7.55–10.4), 112 % of the 8 that others leave: even its lower bound is over 60 %
}
