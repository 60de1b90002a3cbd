package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// undoWithin bounds what one step puts right when the run is over.
const undoWithin = 30 * time.Second

// poll is how often the engine looks at its own samples to see phases, recovery and the end.
const poll = 100 * time.Millisecond

// Options say how a run is made.
type Options struct {
	// Layers is the name of the run in the report; hypotheses select by it.
	Layers string
	// NewAction and NewProbe make what the scenario names; catalog has them.
	NewAction func(v1alpha1.DrillAction, Env) (Action, error)
	NewProbe  func(v1alpha1.DrillProbe, Env) (string, Probe, error)
	// Scrape reads an API server's own signals; nil: none are recorded.
	Scrape ScrapeFunc
	// Progress is told, in words, what happens; it must not block.
	Progress func(line string)
	Log      *slog.Logger
}

// run is one run in flight.
type run struct {
	drill   *v1alpha1.Drill
	target  Target
	options Options
	zero    time.Time
	rec     *Recorder
	steps   map[string]*stepRun
	order   []*stepRun
	// playing ends with the run. Steps and probes are waited for first, and then what steps left running.
	playing context.Context
	all     sync.WaitGroup
	besides sync.WaitGroup

	mu     sync.Mutex
	phase  int // the index of the phase we are in
	result Result
}

// Run runs a drill that is defaulted and valid, and returns what it recorded. The error is one that kept the drill from
// being run; what went wrong in it is in the result. When ctx ends the run is over and its context's error is returned.
func Run(ctx context.Context, d *v1alpha1.Drill, target Target, options Options) (*Result, error) {
	begin := d.Compressed(d.Phases[0].At.Duration)
	r := &run{drill: d, target: target, options: options, steps: map[string]*stepRun{}}
	// What happens at the first instant needs an instant to be set up.
	r.zero = time.Now().Add(-begin)
	r.rec = NewRecorder(r.zero)
	r.result = Result{Drill: d, Layers: options.Layers, Zero: r.zero, Begin: begin}
	r.result.Phases = []Phase{{Name: d.Phases[0].Name, Start: begin}}
	for i := range d.Timeline {
		s := &stepRun{spec: &d.Timeline[i], done: make(chan struct{}), ended: make(chan struct{})}
		r.steps[s.spec.Name] = s
		r.order = append(r.order, s)
	}
	if err := r.makeActions(); err != nil {
		return nil, err
	}
	probes, err := r.makeProbes()
	if err != nil {
		return nil, err
	}
	r.say("phase %s", d.Phases[0].Name)
	err = r.play(ctx, probes)
	r.finish()
	return &r.result, err
}

type namedProbe struct {
	name  string
	probe Probe
}

func (r *run) env() Env {
	return Env{Target: r.target, Drill: r.drill, Beside: r.beside, StepDone: func(step string) <-chan struct{} {
		if s, ok := r.steps[step]; ok {
			return s.done
		}
		return nil // blocks for ever: a step that does not exist is never done
	}}
}

func (r *run) makeActions() error {
	for _, s := range r.order {
		action, err := r.options.NewAction(s.spec.Action, r.env())
		if err != nil {
			return fmt.Errorf("preparing step %q: %w", s.spec.Name, err)
		}
		s.action = action
	}
	return nil
}

func (r *run) makeProbes() ([]namedProbe, error) {
	var probes []namedProbe
	for _, spec := range r.drill.Probes {
		name, probe, err := r.options.NewProbe(spec, r.env())
		if err != nil {
			return nil, fmt.Errorf("preparing probe %v: %w", spec.Names(), err)
		}
		probes = append(probes, namedProbe{name: name, probe: probe})
	}
	return probes, nil
}

// play runs everything side by side until the end has come.
func (r *run) play(ctx context.Context, probes []namedProbe) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	r.playing = inner
	for _, p := range probes {
		r.all.Go(func() {
			if err := p.probe.Run(inner, r.rec.Sink(p.name)); err != nil && !errors.Is(err, context.Canceled) {
				r.problem("probe %s: %v", p.name, err)
			}
		})
	}
	r.all.Go(func() { r.observeUsage(inner) })
	if r.options.Scrape != nil {
		r.all.Go(func() { r.observeSignals(inner) })
	}
	for _, s := range r.order {
		r.all.Go(func() { r.playStep(inner, s) })
	}
	r.conduct(inner)
	stop()
	r.all.Wait()
	r.result.End = r.now()
	r.besides.Wait()
	return ctx.Err()
}

// beside implements Env.Beside. It is called by steps, which end before besides are waited for.
func (r *run) beside(b Beside) {
	r.besides.Go(func() {
		if b.While != nil {
			b.While(r.playing)
		}
		<-r.playing.Done()
		if b.Undo == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.playing), undoWithin)
		defer cancel()
		if err := b.Undo(ctx); err != nil {
			r.problem("putting right what a step changed: %v", err)
		}
	})
}

// conduct moves through the phases and returns when the drill is over.
func (r *run) conduct(ctx context.Context) {
	end := r.drill.Compressed(r.drill.End.At.Duration)
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.advancePhase()
		if r.lookForRecovery() && r.drill.End.WhenRecovered {
			r.say("recovered: the run is over")
			return
		}
		if r.rolledOut() {
			r.say("the rollout is over")
			return
		}
		if r.now() >= end {
			r.say("the scenario's end")
			return
		}
	}
}

// rolledOut says whether there is nothing left to wait for but what was rolled out, and not that either.
func (r *run) rolledOut() bool {
	for _, s := range r.order {
		select {
		case <-s.ended:
		default:
			return false
		}
	}
	roller, can := r.target.(RollerOut)
	return can && roller.RolledOut()
}

// advancePhase moves to the latest phase that has begun; phases only go forward.
func (r *run) advancePhase() {
	for i := len(r.drill.Phases) - 1; i > r.currentPhase(); i-- {
		start, begun := r.phaseStart(r.drill.Phases[i])
		if !begun {
			continue
		}
		r.mu.Lock()
		r.phase = i
		r.result.Phases[len(r.result.Phases)-1].End = start
		r.result.Phases = append(r.result.Phases, Phase{Name: r.drill.Phases[i].Name, Start: start})
		r.mu.Unlock()
		r.say("phase %s", r.drill.Phases[i].Name)
		return
	}
}

func (r *run) phaseStart(p v1alpha1.DrillPhase) (time.Duration, bool) {
	if p.At != nil {
		at := r.drill.Compressed(p.At.Duration)
		return at, r.now() >= at
	}
	return r.steps[p.After].doneAt()
}

func (r *run) currentPhase() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase
}

// lookForRecovery notes the recovery time once, after the mitigation.
func (r *run) lookForRecovery() bool {
	for _, s := range r.order {
		if !s.spec.Mitigates {
			continue
		}
		mitigated, ok := s.doneAt()
		if !ok {
			return false
		}
		if r.result.Recovery != nil {
			return true
		}
		from, well := r.rec.Well(r.drill.Recovered, mitigated)
		if !well || len(r.drill.Recovered) == 0 {
			return false
		}
		recovery := from - mitigated
		r.result.Recovery = &recovery
		return true
	}
	return false
}

// finish closes what is open and collects the records.
func (r *run) finish() {
	r.result.Phases[len(r.result.Phases)-1].End = r.result.End
	r.result.Samples = r.rec.Samples()
	for _, s := range r.order {
		r.result.Steps = append(r.result.Steps, s.report())
		if s.spec.Mitigates {
			if at, ok := s.doneAt(); ok {
				mitigation := at - s.state.Start
				r.result.Mitigation = &mitigation
			}
		}
		if s.state.Status == StepFailed && s.spec.Expect == v1alpha1.ExpectSuccess {
			r.problem("step %s failed: %s", s.spec.Name, s.state.Error)
		}
	}
	if reporter, ok := r.target.(AgentReporter); ok {
		r.result.Agents = reporter.AgentResults()
	}
}

// now is the time since the incident's start.
func (r *run) now() time.Duration { return time.Since(r.zero) }

// at waits until a time of the run has come; false when ctx ended first.
func (r *run) at(ctx context.Context, when time.Duration) bool {
	timer := time.NewTimer(when - r.now())
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (r *run) problem(format string, args ...any) {
	r.mu.Lock()
	r.result.Problems = append(r.result.Problems, fmt.Sprintf(format, args...))
	r.mu.Unlock()
	r.say("problem: "+format, args...)
}

func (r *run) say(format string, args ...any) {
	if r.options.Progress != nil {
		r.options.Progress(fmt.Sprintf("%+6.1fs  ", r.now().Seconds()) + fmt.Sprintf(format, args...))
	}
}
