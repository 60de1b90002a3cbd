package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
)

// apfRung jails the component's ServiceAccount: a priority level that dispatches nothing. It hits the stable revision too, which
// has the same ServiceAccount.
type apfRung struct{ writer *apf.Writer }

var _ jail.Rung = (*apfRung)(nil)

// Name implements jail.Rung.
func (*apfRung) Name() string { return string(v1alpha1.RungAPF) }

// HitsStable implements jail.Rung.
func (*apfRung) HitsStable() bool { return true }

// ReducesLoad implements jail.Rung.
func (*apfRung) ReducesLoad() bool { return true }

func (*apfRung) jail(c jail.Component, reason string, length time.Duration) (apf.Jail, error) {
	if c.ServiceAccount == "" {
		return apf.Jail{}, errors.New("the change has no ServiceAccount that could be jailed")
	}
	if len(reason) > 1<<10 {
		reason = reason[:1<<10]
	}
	return apf.Jail{ServiceAccount: c.ServiceAccount, For: min(length, apf.MaxJail), Reason: reason}, nil
}

// Prove implements jail.Rung: the API server checks what would be written, and stores nothing.
func (r *apfRung) Prove(ctx context.Context, c jail.Component) error {
	j, err := r.jail(c, c.Rollout+": pre-flight", time.Minute)
	if err == nil {
		_, err = r.writer.Jail(ctx, j, true)
	}
	if errors.Is(err, apf.ErrSystem) {
		return fmt.Errorf("%w: it is never jailed by itself; mark the rung optional", err)
	}
	return err
}

// Do implements jail.Rung.
func (r *apfRung) Do(ctx context.Context, c jail.Component, reason string, length time.Duration) error {
	j, err := r.jail(c, reason, length)
	if err == nil {
		_, err = r.writer.Jail(ctx, j, false)
	}
	return err
}

// Undo implements jail.Rung.
func (r *apfRung) Undo(ctx context.Context, c jail.Component) error {
	j, err := r.jail(c, "", time.Minute)
	if err != nil {
		return err
	}
	if err := r.writer.Unjail(ctx, j.Name()); err != nil && !errors.Is(err, apf.ErrNoJail) {
		return err
	}
	return nil
}
