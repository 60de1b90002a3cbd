package jail

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// aWay is a rung whose way is open, cut, or leads nowhere.
type aWay struct {
	Freeze
	cut, hangs bool
	done       int
}

func (w *aWay) Do(ctx context.Context, _ Component, _ string, _ time.Duration) error {
	if w.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if w.cut {
		return errors.New("cut")
	}
	w.done++
	return nil
}

func TestWays(t *testing.T) {
	for name, test := range map[string]struct {
		ordinary, glass aWay
		wantDone        int
		wantErr         bool
	}{
		"open":     {aWay{}, aWay{}, 0, false},
		"cut":      {aWay{cut: true}, aWay{}, 1, false},
		"hangs":    {aWay{hangs: true}, aWay{}, 1, false},
		"both cut": {aWay{cut: true}, aWay{cut: true}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := Ways{Ordinary: &test.ordinary, BreakGlass: &test.glass, Patience: time.Second}
				err := w.Do(t.Context(), Component{}, "", time.Minute)
				if (err != nil) != test.wantErr || test.glass.done != test.wantDone {
					t.Errorf("got %v, the break-glass way was gone %d times", err, test.glass.done)
				}
			})
		})
	}
}
