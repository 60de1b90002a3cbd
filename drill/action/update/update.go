// Package update is the action that brings a new version of the fixtures' agent to some nodes, as one step of a rollout does.
package update

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/changed"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/drill/session"
)

// lookEvery is how often it is looked whether the new pods are there.
const lookEvery = 100 * time.Millisecond

type action struct {
	spec   v1alpha1.UpdateAction
	target drill.Target
	change *changed.Change
	seed   uint64
	order  []string // of nodes, drawn once: what an attempt has begun the next one ends
}

// New returns the action.
func New(spec v1alpha1.UpdateAction, env drill.Env) (drill.Action, error) {
	change, err := changed.Of(spec.Version, env)
	return &action{spec: spec, target: env.Target, change: change, seed: env.Drill.Parameters.Seed}, err
}

// Do implements drill.Action. A target that rolls out does so instead, and the action is done when as many nodes run it, or nothing
// more comes of it.
func (a *action) Do(ctx context.Context) error {
	manifest := fixtures.AgentVersion(a.change.Namespace, a.spec.Version, a.spec.Annotations)
	if roller, ok := a.target.(drill.RollerOut); ok {
		taken, err := roller.RollOut(ctx, []string{string(manifest)})
		if taken && err == nil {
			return a.await(ctx, roller)
		}
		if taken || err != nil {
			return err
		}
	}
	return a.step(ctx, manifest)
}

// await waits for what somebody else rolls out. An API server that does not answer is asked again: that may be what comes of it.
func (a *action) await(ctx context.Context, roller drill.RollerOut) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		pods, err := a.change.Pods(ctx)
		if err == nil && len(pods) >= a.spec.Nodes || roller.RolledOut() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes run version %s: %w", len(pods), a.spec.Nodes, a.spec.Version, errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

// step brings it to the nodes.
func (a *action) step(ctx context.Context, manifest []byte) error {
	if err := a.template(ctx, manifest); err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	deleted := map[string]bool{} // by UID
	for {
		pods, err := a.change.Agents(ctx)
		if err != nil {
			return err
		}
		a.draw(pods)
		there := 0
		for _, p := range pods {
			switch {
			case a.change.Runs(p):
				there++
			case slices.Contains(a.order[:min(a.spec.Nodes, len(a.order))], p.Spec.NodeName) && !deleted[string(p.UID)]:
				if err := a.change.Delete(ctx, &p); err != nil {
					return err
				}
				deleted[string(p.UID)] = true
			}
		}
		if there >= a.spec.Nodes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes run version %s: %w", there, a.spec.Nodes, a.spec.Version, ctx.Err())
		case <-tick.C:
		}
	}
}

// draw puts the nodes in an order that the seed decides.
func (a *action) draw(pods []corev1.Pod) {
	if a.order != nil {
		return
	}
	for _, p := range pods {
		a.order = append(a.order, p.Spec.NodeName)
	}
	slices.Sort(a.order)
	rand.New(rand.NewPCG(a.seed, 1)).Shuffle(len(a.order), func(i, j int) { a.order[i], a.order[j] = a.order[j], a.order[i] })
}

// template writes the new version.
func (a *action) template(ctx context.Context, manifest []byte) error {
	path := "/apis/apps/v1/namespaces/" + a.change.Namespace + "/daemonsets/" + fixtures.Agent + "?force=true&fieldManager=" + fixtures.AgentManager
	code, answer, err := a.change.Caller.Do(ctx, http.MethodPatch, path, apicall.ApplyPatch, manifest)
	if err != nil {
		return fmt.Errorf("writing the template of version %s: %w", a.spec.Version, err)
	}
	if code != http.StatusOK {
		return fmt.Errorf("writing the template of version %s: answered %d: %s", a.spec.Version, code, session.Message(answer))
	}
	return nil
}
