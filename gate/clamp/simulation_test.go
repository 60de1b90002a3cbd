package clamp

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const telemetry = "system:serviceaccount:telemetry:telemetry"

var shipped = Policy{HeadroomPercent: 50, Duration: 10 * time.Minute}

// The incident: 300 nodes, a DaemonSet whose every pod LISTs all pods at its start and every 10 to 15 s. It is named within 30 s
// of the first pods, on a part of the nodes, and clamped before an engineer's request takes a second.
func TestIncident(t *testing.T) {
	for _, cpus := range []float64{2, 4, 8} {
		for _, over := range []time.Duration{40 * time.Second, 60 * time.Second} {
			for _, burst := range []int{1, 3} {
				for seed := range uint64(3) {
					name := fmt.Sprintf("%g CPUs, %v, burst %d, seed %d", cpus, over, burst, seed)
					random := rand.New(rand.NewPCG(seed, 20241211))
					rollout := program{user: telemetry, starts: spread(random, 300, 20*time.Second, over), burst: burst, startCost: .5, cost: .5, period: 10 * time.Second}
					direct := world{cpus: cpus, nodes: 300, programs: append(calm(random), rollout), policy: shipped}
					if before := direct.run(random, 90*time.Second); before.saturated < 20*time.Second {
						t.Errorf("%s: without a clamp the API server is saturated for %v: no incident", name, before.saturated)
					}
					clamped := direct
					clamped.enforce = true
					got := clamped.run(random, 90*time.Second)
					at, named := got.named[telemetry]
					late := 50 * time.Second
					if cpus == 8 && burst == 1 { // eight processors carry two thirds of it: it has to be half done to be told
						late = 55 * time.Second
					}
					if !named || at > late || len(got.named) != 1 {
						t.Errorf("%s: named %v", name, got.named)
						continue
					}
					if end, ok := got.clamped[telemetry]; !ok || end != at {
						t.Errorf("%s: named at %v, clamped at %v", name, at, end)
					}
					if got.worst >= time.Second || got.saturated > 3*time.Second {
						t.Errorf("%s: an engineer waits %v, saturated for %v", name, got.worst, got.saturated)
					}
					if seed == 0 {
						t.Logf("%s: named after %v on %d nodes; an engineer waits %v at most, saturated for %v", name, at-20*time.Second, got.sources[telemetry], got.worst, got.saturated)
					}
				}
			}
		}
	}
}

// calm is a cluster's everyday load: agents on every node that were there before, controllers, people.
func calm(random *rand.Rand) []program {
	everywhere := old(300)
	return []program{
		{user: "system:serviceaccount:logging:shipper", starts: everywhere, burst: 1, startCost: .001, cost: .001, period: 10 * time.Second},
		{user: "system:serviceaccount:kube-system:kube-proxy", starts: everywhere, burst: 1, startCost: .002, cost: .001, period: 30 * time.Second},
		{user: "system:serviceaccount:a:controller", starts: old(1), burst: 1, startCost: .02, cost: .02, period: time.Second},
		{user: "system:serviceaccount:shop:web", starts: old(40), burst: 1, startCost: .002, cost: .002, period: 5 * time.Second},
	}
}

// What must not be clamped.
func TestHarmless(t *testing.T) {
	everywhere := old(300)
	for name, scene := range map[string]struct {
		programs func(random *rand.Rand) []program
		restart  time.Duration
		nodes    int
	}{
		"a Deployment is scaled from 1 to 5": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:shop:api", starts: append(old(1), spread(random, 4, 30*time.Second, 20*time.Second)...),
				burst: 4, startCost: .1, cost: .1, period: time.Second}}
		}},
		"node autoscaling doubles the kubelets": {nodes: 600, programs: func(random *rand.Rand) []program {
			twice := append(old(300), spread(random, 300, 30*time.Second, time.Minute)...)
			return []program{
				{user: "system:serviceaccount:kube-system:cni", starts: twice, burst: 3, startCost: .02, cost: .002, period: 30 * time.Second},
				{user: "system:serviceaccount:logging:shipper", starts: twice, burst: 2, startCost: .02, cost: .001, period: 10 * time.Second},
				{user: "system:serviceaccount:monitoring:node-exporter", starts: twice, burst: 1, startCost: .05, cost: .001, period: 15 * time.Second},
			}
		}},
		"a controller starts": {programs: func(*rand.Rand) []program {
			return []program{{user: "system:serviceaccount:b:operator", starts: []time.Duration{30 * time.Second}, burst: 80, startCost: .05, cost: .01, period: time.Second}}
		}},
		"a CronJob fans out": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:batch:nightly", starts: spread(random, 100, 30*time.Second, 20*time.Second), ends: 8 * time.Second,
				burst: 3, startCost: .05, cost: .05, period: 5 * time.Second}}
		}},
		"a CronJob fans out for a minute": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:batch:hourly", starts: spread(random, 300, 30*time.Second, time.Minute), ends: 8 * time.Second,
				burst: 3, startCost: .03, cost: .03, period: 5 * time.Second}}
		}},
		"kube-proxy is restarted everywhere": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:kube-system:kube-proxy-2", starts: spread(random, 300, 30*time.Second, time.Minute),
				burst: 3, startCost: .03, cost: .0005, period: 30 * time.Second}}
		}},
		"an agent that is costly at its start only, in batches that double": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:security:agent", starts: doubling(random, 300, 30*time.Second, 8*time.Second), burst: 1, startCost: .04, cost: .001, period: 10 * time.Second}}
		}},
		"one of many does the work": {programs: func(random *rand.Rand) []program {
			return []program{{user: "system:serviceaccount:c:elected", starts: spread(random, 60, 20*time.Second, 30*time.Second), leader: true,
				burst: 1, startCost: .01, cost: .3, period: 500 * time.Millisecond}}
		}},
		"costly and everywhere for long": {programs: func(*rand.Rand) []program {
			return []program{{user: "system:serviceaccount:d:costly", starts: everywhere, burst: 1, startCost: .08, cost: .08, period: 10 * time.Second}}
		}},
		"the gate is restarted": {restart: 30 * time.Second, programs: func(*rand.Rand) []program {
			return []program{{user: "system:serviceaccount:d:costly", starts: everywhere, burst: 1, startCost: .08, cost: .08, period: 10 * time.Second}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				random := rand.New(rand.NewPCG(seed, 1))
				w := world{cpus: 2, nodes: max(300, scene.nodes), programs: append(calm(random), scene.programs(random)...), policy: shipped, restart: scene.restart, enforce: true}
				if got := w.run(random, 3*time.Minute); len(got.named) > 0 || len(got.clamped) > 0 {
					t.Errorf("seed %d: named %v from %v sources, clamped %v", seed, got.named, got.sources, got.clamped)
				}
			}
		})
	}
}

// The clamp is prolonged while those it bounds go on asking, and ends after them.
func TestRenewal(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	policy := shipped
	policy.Duration = time.Minute
	rollout := program{user: telemetry, starts: spread(random, 300, 10*time.Second, 40*time.Second), ends: 4 * time.Minute, burst: 3, startCost: .5, cost: .5, period: 10 * time.Second}
	w := world{cpus: 2, nodes: 300, programs: append(calm(random), rollout), policy: policy, enforce: true}
	if got := w.run(random, 8*time.Minute); got.renewed < 4 || got.renewed > 12 || got.worst > time.Second {
		t.Errorf("renewed %d times; an engineer waits %v at most", got.renewed, got.worst)
	}
}
