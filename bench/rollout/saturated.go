package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/verdict"
	"github.com/seakeep/seakeep/signals"
)

// rescue is what one rollback of a saturated API server took, from the verdict on.
type rescue struct {
	// busy is the share of its processors that the API server used before, cost the execution seconds a second of the component.
	busy, cost float64
	// starts is when the first measure that acts on the cluster was begun, effective when the component's cost had fallen by
	// 95 %, reverted when the old template was in force again and no pod of the change was left.
	starts, effective, reverted time.Duration
	taken                       []jail.Taken
}

// jailer joins the rung to the writer, as cli does.
type jailer struct{ *apf.Writer }

func (j jailer) Jail(ctx context.Context, account, reason string, length time.Duration, dryRun bool) error {
	_, err := j.Writer.Jail(ctx, apf.Jail{ServiceAccount: account, For: length, Reason: reason}, dryRun)
	return err
}

func (j jailer) Unjail(ctx context.Context, account string) error {
	if err := j.Writer.Unjail(ctx, apf.Jail{ServiceAccount: account}.Name()); err != nil && !errors.Is(err, apf.ErrNoJail) {
		return err
	}
	return nil
}

// reverter puts the old template back and deletes the change's pods.
type reverter struct {
	rig    *labRig
	update string
	done   time.Time
}

func (v *reverter) Prove(context.Context, jail.Component) error { return nil }

func (v *reverter) Revert(ctx context.Context, _ jail.Component, _ string) error {
	err := v.rig.back(ctx, v.update)
	v.done = time.Now()
	return err
}

// timed notes when a rung was begun.
type timed struct {
	jail.Rung
	began *time.Time
}

func (t timed) Do(ctx context.Context, c jail.Component, reason string, length time.Duration) error {
	if t.began.IsZero() {
		*t.began = time.Now()
	}
	return t.Rung.Do(ctx, c, reason, length)
}

// flows reads what each schema cost so far, and the processor seconds used, with credentials that nothing holds back.
func (r *labRig) flows(ctx context.Context) (signals.Flows, signals.APIServer, error) {
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := r.big.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(within)
	if err != nil {
		return signals.Flows{}, signals.APIServer{}, err
	}
	flows, err := signals.ReadFlows(bytes.NewReader(body), time.Now())
	if err != nil {
		return signals.Flows{}, signals.APIServer{}, err
	}
	server, err := signals.Read(bytes.NewReader(body), flows.Read)
	return flows, server, err
}

// costSince is the component's execution seconds a second, in its own level and in jail.
func costSince(now, before signals.Flows) float64 {
	seconds := now.Read.Sub(before.Read).Seconds()
	if seconds <= 0 {
		return 0
	}
	change := now.Since(before)
	return (change[schema].ExecutionSeconds + change[jailName].ExecutionSeconds) / seconds
}

var jailName = apf.Jail{ServiceAccount: namespace + "/" + component}.Name()

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

// rescue lets three nodes of the change saturate the API server, and climbs the ladder as for a verdict of Fail.
func (r *labRig) rescue(ctx context.Context, n int) (out rescue, err error) {
	exposed, update, _, err := r.step(ctx, fmt.Sprint("agent:", n), 3)
	if err != nil {
		return out, err
	}
	storm, err := r.storm(ctx, len(exposed))
	if err != nil {
		return out, err
	}
	defer storm.Stop()
	if err := run.Pause(ctx, 4*time.Second); err != nil {
		return out, err
	}
	first, server, err := r.flows(ctx)
	if err != nil {
		return out, err
	}
	if err := run.Pause(ctx, 4*time.Second); err != nil {
		return out, err
	}
	last, later, err := r.flows(ctx)
	if err != nil {
		return out, err
	}
	out.cost, out.busy = costSince(last, first), later.Since(server).CPU()

	exempt, err := clientOf(r.big.lab.RESTConfig(lab.Masters))
	if err != nil {
		return out, err
	}
	var began time.Time
	back := &reverter{rig: r, update: update}
	ladder := &jail.Ladder{
		Log: slog.New(slog.DiscardHandler),
		Rungs: []jail.Rung{
			jail.Freeze{},
			timed{jail.APF{Jailer: jailer{apf.NewWriter(apf.Options{Client: exempt, Holder: "bench", Log: slog.New(slog.DiscardHandler)})}}, &began},
			timed{jail.Revert{Target: back}, &began},
		},
	}
	ladder.Spec.Rungs = []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungAPF}, {Name: v1alpha1.RungRevert}}
	ladder.Spec.SetDefaults()
	c := jail.Component{Cluster: "big", Kind: "DaemonSet", Namespace: namespace, Name: component, ServiceAccount: namespace + "/" + component, Rollout: fmt.Sprint("bench-", n)}

	decided := time.Now()
	var effective time.Time
	before := last
	out.taken, _ = ladder.Climb(ctx, c, "the API server is saturated", func(ctx context.Context) jail.Situation {
		s := jail.Situation{Now: time.Now(), Verdict: verdict.Fail, Attributed: true, ControlPlaneFails: true, Load: true}
		if began.IsZero() {
			return s
		}
		now, _, err := r.flows(ctx)
		if err != nil {
			return s
		}
		if cost := costSince(now, before); now.Read.Sub(before.Read) >= 500*time.Millisecond && before.Read.After(began) {
			s.Measured, s.Reduced = true, max(0, 1-cost/out.cost)
			if s.Reduced >= ladder.Spec.EffectiveReduction && effective.IsZero() {
				effective = now.Read
			}
		}
		before = now
		return s
	})
	for _, t := range out.taken {
		if t.Err != "" {
			return out, fmt.Errorf("rung %s: %s", t.Name, t.Err)
		}
	}
	out.starts = began.Sub(decided)
	out.effective, out.reverted = effective.Sub(decided), back.done.Sub(decided)
	if effective.IsZero() {
		out.effective = -1
	}
	return out, ladder.Undo(ctx, c)
}
