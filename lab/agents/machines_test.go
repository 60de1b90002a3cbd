package agents

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
)

func TestMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := NewMachines()
		const nodes = 200
		on := map[int]bool{}
		events := make(chan func(), nodes*2)
		for i := range nodes {
			go m.run(ctx, fmt.Sprintf("node-%04d", i), func(ctx context.Context) {
				events <- func() { on[i] = true }
				<-ctx.Done()
				events <- func() { delete(on, i) }
			})
		}
		count := func() int {
			synctest.Wait()
			for len(events) > 0 {
				(<-events)()
			}
			return len(on)
		}
		for _, step := range []struct{ percent, low, high int }{{100, nodes, nodes}, {50, 70, 130}, {0, 0, 0}, {100, nodes, nodes}} {
			m.Set(step.percent)
			if got := count(); got < step.low || got > step.high {
				t.Errorf("%d %% of %d machines: want %d–%d on, got %d", step.percent, nodes, step.low, step.high, got)
			}
		}
		cancel()
		if got := count(); got != 0 {
			t.Errorf("after the end: want none on, got %d", got)
		}
	})
}
