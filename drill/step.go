package drill

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// stepRun is one step in flight. Its goroutine is the only writer.
type stepRun struct {
	spec   *v1alpha1.DrillStep
	action Action
	done   chan struct{} // closed when it has succeeded
	ended  chan struct{} // closed when nothing more comes of it

	mu    sync.Mutex
	state Step
}

// doneAt is when the step succeeded.
func (s *stepRun) doneAt() (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.End, s.state.Status == StepDone
}

func (s *stepRun) report() Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	report := s.state
	report.Name, report.Title, report.Kind = s.spec.Name, s.spec.Title, s.spec.Action.Kind()
	return report
}

func (s *stepRun) update(change func(*Step)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// end settles the step.
func (s *stepRun) end(status StepStatus, at time.Duration, message string) {
	s.update(func(state *Step) { state.Status, state.End, state.Error = status, at, message })
	if status == StepDone {
		close(s.done)
	}
	close(s.ended)
}

// playStep waits for the step's turn and does it.
func (r *run) playStep(ctx context.Context, s *stepRun) {
	if reason, ok := r.awaitTurn(ctx, s); !ok {
		s.end(StepNotReached, r.now(), reason)
		return
	}
	if why, ok := r.notNeeded(s); ok {
		s.update(func(state *Step) { state.Start = r.now() })
		s.end(StepSkipped, r.now(), "")
		r.say("%s: not needed, %s", s.spec.Title, why)
		return
	}
	r.attempt(ctx, s)
}

// notNeeded says why a remedy is not needed any more.
func (r *run) notNeeded(s *stepRun) (why string, ok bool) {
	if s.spec.When != v1alpha1.WhenUnhealthy {
		return "", false
	}
	for _, other := range r.steps {
		if _, done := other.doneAt(); done && other.spec.Mitigates {
			return "the cause is removed", true
		}
	}
	_, well := r.rec.Well(r.drill.Recovered, -1<<62)
	return "all is well", well
}

// awaitTurn waits for the step's time or for the step before it.
func (r *run) awaitTurn(ctx context.Context, s *stepRun) (reason string, ok bool) {
	const over = "the run ended first"
	if s.spec.At != nil {
		return over, r.at(ctx, r.drill.Compressed(s.spec.At.Duration))
	}
	before := r.steps[s.spec.After]
	select {
	case <-ctx.Done():
		return over, false
	case <-before.ended:
	}
	at, done := before.doneAt()
	if !done {
		return fmt.Sprintf("step %s did not succeed", s.spec.After), false
	}
	if s.spec.Plus != nil {
		return over, r.at(ctx, at+r.drill.Compressed(s.spec.Plus.Duration))
	}
	return "", true
}

// attempt tries until it succeeds, may not be retried, or the time is up. Attempts start at a fixed rate, as a person
// repeats a command: not faster because the last one failed fast.
func (r *run) attempt(ctx context.Context, s *stepRun) {
	start := r.now()
	s.update(func(state *Step) { state.Start = start })
	r.say("%s", s.spec.Title)
	for n := 1; ; n++ {
		began := r.now()
		err := r.once(ctx, s)
		s.update(func(state *Step) { state.Attempts = n })
		if err == nil {
			s.end(StepDone, r.now(), "")
			if n > 1 || r.now()-start > time.Second {
				r.say("%s: done after %.1fs, %d attempts", s.spec.Title, (r.now() - start).Seconds(), n)
			}
			return
		}
		if n == 1 {
			r.say("%s: %v", s.spec.Title, err)
		}
		if s.spec.Retry == nil || r.now() >= r.drill.Compressed(s.spec.Until.Duration) {
			s.end(StepFailed, r.now(), err.Error())
			r.say("%s: failed after %d attempts", s.spec.Title, n)
			return
		}
		if !r.at(ctx, began+s.spec.Retry.Duration) {
			s.end(StepFailed, r.now(), "the run ended first; "+err.Error())
			return
		}
	}
}

func (r *run) once(ctx context.Context, s *stepRun) error {
	ctx, cancel := context.WithTimeout(ctx, s.spec.Timeout.Duration)
	defer cancel()
	return s.action.Do(ctx)
}
