package jail

import (
	"context"
	"fmt"
	"time"
)

// Ways takes a rung by the ordinary way to the cluster, and by the break-glass way when that fails: what the change harms may be
// the way itself. Both ways lead to the same objects, and a rung that is done twice is done once.
type Ways struct {
	Ordinary, BreakGlass Rung
	// Patience is how long the ordinary way may take, > 0.
	Patience time.Duration
}

var _ Rung = Ways{}

// Name implements Rung.
func (w Ways) Name() string { return w.Ordinary.Name() }

// HitsStable implements Rung.
func (w Ways) HitsStable() bool { return w.Ordinary.HitsStable() }

// ReducesLoad implements Rung.
func (w Ways) ReducesLoad() bool { return w.Ordinary.ReducesLoad() }

// Prove implements Rung: both ways must work before anything moves, or the one that is needed would be found missing then.
func (w Ways) Prove(ctx context.Context, c Component) error {
	if err := w.Ordinary.Prove(ctx, c); err != nil {
		return err
	}
	if err := w.BreakGlass.Prove(ctx, c); err != nil {
		return fmt.Errorf("by the break-glass way: %w", err)
	}
	return nil
}

// Do implements Rung.
func (w Ways) Do(ctx context.Context, c Component, reason string, length time.Duration) error {
	return w.either(ctx, func(ctx context.Context, r Rung) error { return r.Do(ctx, c, reason, length) })
}

// Undo implements Rung.
func (w Ways) Undo(ctx context.Context, c Component) error {
	return w.either(ctx, func(ctx context.Context, r Rung) error { return r.Undo(ctx, c) })
}

func (w Ways) either(ctx context.Context, try func(context.Context, Rung) error) error {
	patience, cancel := context.WithTimeout(ctx, w.Patience)
	ordinary := try(patience, w.Ordinary)
	cancel()
	if ordinary == nil || ctx.Err() != nil {
		return ordinary
	}
	if err := try(ctx, w.BreakGlass); err != nil {
		return fmt.Errorf("%w; by the break-glass way: %w", ordinary, err)
	}
	return nil
}
