package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/signals"
)

// rescue is what one rollback of a saturated API server took.
type rescue struct {
	// busy is the share of its processors that the API server used before, cost the execution seconds a second of the component.
	busy, cost float64
	// found is from the first LIST to the verdict. From the verdict on: starts is when the first measure that acts on the cluster was
	// taken, effective when the component's cost had fallen by 95 %, reverted when the old template was in force again and no pod of
	// the change was left.
	found, starts, effective, reverted time.Duration
	why                                string
}

// sample is what the component has cost so far, and what its API server used.
type sample struct {
	at     time.Time
	cost   float64
	server signals.APIServer
}

// costs are counted by the scale gate's flow schema, and in jail.
var costs = []string{observe.Schema{ServiceAccount: namespace + "/" + agent}.Name(), apf.Jail{ServiceAccount: namespace + "/" + agent}.Name()}

func (r *labRig) sample(ctx context.Context) (s sample, err error) {
	within, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body, err := r.big.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(within)
	if err != nil {
		return s, err
	}
	s.at = time.Now()
	flows, err := signals.ReadFlows(bytes.NewReader(body), s.at)
	if err != nil {
		return s, err
	}
	for _, name := range costs {
		s.cost += flows.Schemas[name].ExecutionSeconds
	}
	s.server, err = signals.Read(bytes.NewReader(body), s.at)
	return s, err
}

// watch samples until the context ends.
func (r *labRig) watch(ctx context.Context) (all []sample) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := r.sample(ctx); err == nil { // one that is missing makes the next mean longer
			all = append(all, s)
		}
		select {
		case <-ctx.Done():
			return all
		case <-tick.C:
		}
	}
}

// agentsPerNode of the change LIST all pods at once, each again as soon as it has its answer.
const agentsPerNode = 8

// storm is the change's agents, a process that gives way to the API server: one that they keep from its processor is not
// saturated but starved.
func (r *labRig) storm(ctx context.Context, nodes int) (*agents.Process, error) {
	token, err := r.token(ctx)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(r.big.lab.PKI().ClusterCA)
	if err != nil {
		return nil, err
	}
	p, err := agents.Start(ctx, &agents.Spec{
		URL: r.big.lab.APIServerURL(0), CA: ca, Does: agents.List, Paths: []string{"/api/v1/pods"},
		Tokens: slices.Repeat([]string{token}, nodes*agentsPerNode), Measure: time.Second, Hold: true,
	})
	if err != nil {
		return nil, err
	}
	if _, err := p.Await(agents.Begun); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

const rescueRollout = `apiVersion: seakeep.dev/v1alpha1
kind: Rollout
name: rescue
change:
  daemonSet:
    namespace: %[1]s
    name: %[2]s
    patch: {spec: {containers: [{name: %[2]s, image: "%[2]s:%[3]d"}]}}
stages:
- {name: first, labelSelector: {matchLabels: {stage: first}}}
- {name: second, labelSelector: {matchLabels: {stage: second}}}
largestClusterProbe: {disabled: true}
steps: [{replicas: 3}, {replicas: 9}, {replicas: "100%%"}]
nodes: {maxUnavailable: 3}
interval: 1s
scaleGate: {window: 10s}
analysis: {dns: {mode: Disabled}, slow: {mode: Disabled}}
bake: {minDuration: 60s, detectionWindow: 10s}
onFailure: {rungs: [{name: freeze}, {name: apf}, {name: revert}]}
`

// rescue lets `seakeep rollout run` bring a change to three nodes that saturates the API server there, and times how it is taken back.
func (r *labRig) rescue(ctx context.Context, seakeep, dir string, n int) (out rescue, err error) {
	pods, err := r.pods(ctx)
	if err != nil {
		return out, err
	}
	within, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	rollout, err := r.rollOut(within, seakeep, dir, fmt.Appendf(nil, rescueRollout, namespace, agent, n))
	if err != nil {
		return out, err
	}
	series := make(chan []sample, 1)
	go func() { series <- r.watch(rollout.running) }()
	began, storm, err := r.stormOnThree(rollout.running, revision(pods[0]))
	if err != nil {
		cancel()
	} else {
		defer storm.Stop()
	}
	view, ended := rollout.wait()
	samples := <-series
	if err != nil {
		return out, errors.Join(err, ended)
	}
	if ended != nil {
		return out, ended
	}
	if view.Phase != journal.RolledBack {
		return out, fmt.Errorf("the rollout ended as %s: %s", view.Phase, view.Message)
	}
	at := map[string]time.Time{}
	for _, e := range view.Events {
		name := e.Reason
		if e.Reason == "Rung" && len(e.Message) > 3 && e.Message[:3] == "apf" {
			name = "apf"
		}
		if _, seen := at[name]; !seen && e.Cluster == "big" {
			at[name] = e.At
		}
	}
	failed := at["Failed"]
	if failed.IsZero() || at["apf"].IsZero() || at["TakenBack"].IsZero() {
		return out, fmt.Errorf("the rollout did not fail, jail and take back: %+v", view.Events)
	}
	out.why = view.Message
	out.found, out.starts, out.reverted = failed.Sub(began), at["apf"].Sub(failed), at["TakenBack"].Sub(failed)
	out.effective = -1
	var first, last sample
	for i, s := range samples {
		switch {
		case s.at.Before(began):
		case s.at.Before(failed):
			if first.at.IsZero() {
				first = s
			}
			last = s
		case out.cost == 0 && last.at.After(first.at):
			out.cost = (last.cost - first.cost) / last.at.Sub(first.at).Seconds()
			out.busy = last.server.Since(first.server).CPU()
			fallthrough
		default:
			before := samples[max(0, i-1)]
			rate := (s.cost - before.cost) / s.at.Sub(before.at).Seconds()
			if out.effective < 0 && before.at.After(failed) && rate <= 0.05*out.cost {
				out.effective = s.at.Sub(failed)
			}
		}
	}
	if out.cost == 0 {
		return out, errors.New("what the component cost before it failed could not be read")
	}
	return out, nil
}

// stormOnThree begins the storm when three pods of the change are there. Began is when its first LIST was sent.
func (r *labRig) stormOnThree(ctx context.Context, stable string) (began time.Time, p *agents.Process, err error) {
	err = run.Until(ctx, 3*time.Minute, func(ctx context.Context) error {
		pods, err := r.pods(ctx)
		if err != nil {
			return err
		}
		exposed := 0
		for _, pod := range pods {
			if revision(pod) != stable && isReady(pod) {
				exposed++
			}
		}
		if exposed != 3 {
			return fmt.Errorf("%d of 3 nodes run the change", exposed)
		}
		return nil
	})
	if err != nil {
		return began, nil, err
	}
	began = time.Now()
	p, err = r.storm(ctx, 3)
	return began, p, err
}
