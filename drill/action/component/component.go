// Package component is the action that starts, stops, kills or restarts a part of the control plane.
package component

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	spec   v1alpha1.ComponentAction
	target drill.Target
	beside func(drill.Beside)
}

// New returns the action. The component need not be there yet: an earlier step may bring it.
func New(spec v1alpha1.ComponentAction, env drill.Env) (drill.Action, error) {
	return &action{spec: spec, target: env.Target, beside: env.Beside}, nil
}

// Do implements drill.Action: on all instances of the name, one after the other.
func (a *action) Do(ctx context.Context) error {
	var errs []error
	found := false
	for _, c := range a.target.Components() {
		if !matches(c.Name(), a.spec.Name) {
			continue
		}
		found = true
		if err := a.on(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", strings.ToLower(string(a.spec.Op)), c.Name(), err))
		}
	}
	if !found {
		return fmt.Errorf("there is no component %q", a.spec.Name)
	}
	return errors.Join(errs...)
}

func (a *action) on(ctx context.Context, c drill.Component) error {
	switch a.spec.Op {
	case v1alpha1.ComponentStart:
		return a.settle(ctx, c, c.Start(ctx))
	case v1alpha1.ComponentStop, v1alpha1.ComponentKill:
		a.beside(drill.Beside{Undo: func(ctx context.Context) error { return again(ctx, c) }})
		if a.spec.Op == v1alpha1.ComponentStop {
			return c.Stop(ctx)
		}
		return c.Kill(ctx)
	case v1alpha1.ComponentRestart:
		return a.settle(ctx, c, c.Restart(ctx))
	}
	panic("BUG: operation " + string(a.spec.Op) + " passed validation")
}

// again starts what was ended and nobody has started since.
func again(ctx context.Context, c drill.Component) error {
	if c.Usage().Running {
		return nil
	}
	if err := c.Start(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", c.Name(), err)
	}
	return nil
}

// settle gives what was started its time to be ready. That it is not by then is no failure: the probes tell what became
// of it.
func (a *action) settle(ctx context.Context, c drill.Component, err error) error {
	if limit := a.spec.ReadyWithin.Duration; err == nil && limit > 0 {
		waiting, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		_ = c.AwaitReady(waiting)
		return ctx.Err()
	}
	return err
}

// matches says whether a component is the one named, or an instance of it: kube-apiserver-1 is a kube-apiserver.
func matches(component, name string) bool {
	if component == name {
		return true
	}
	number, ok := strings.CutPrefix(component, name+"-")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}
