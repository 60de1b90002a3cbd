package run

import (
	"context"
	"fmt"
	"time"
)

// Turns calls f for every contender in every round; who was first in one round is last in the next.
func Turns(rounds int, contenders []string, f func(contender string) error) error {
	for round := range rounds {
		for i := range contenders {
			if err := f(contenders[(i+round)%len(contenders)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pause waits, unless the run ends.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Until asks every 5 ms until it is well, for at most a time, and returns what was wrong last.
func Until(ctx context.Context, most time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if Pause(ctx, 5*time.Millisecond) != nil {
			return fmt.Errorf("after %s: %w", most, err)
		}
	}
}
