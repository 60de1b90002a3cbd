package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/signals"
)

// story is a scenario small enough to read beside its transcript.
const story = `apiVersion: seakeep.dev/v1alpha1
kind: Drill
name: story
title: A story
target: {kind: Lab}
parameters: {nodes: 1, pods: 1, factor: 60}
phases:
- {name: baseline, at: -5m}
- {name: fault, at: 0s}
- {name: late, at: 30m}
- {name: recovery, after: repair}
timeline:
- {name: break, at: 0s, action: {component: {name: server, op: Kill}}}
- {name: repair, at: 10m, retry: 1s, timeout: 500ms, until: 40m, mitigates: true, action: {component: {name: repair, op: Start}}}
- {name: again, after: repair, plus: 2m, action: {component: {name: again, op: Start}}}
- {name: remedy, at: 5m, when: Unhealthy, action: {component: {name: remedy, op: Start}}}
- {name: needless, at: 19m, when: Unhealthy, action: {component: {name: needless, op: Start}}}
- {name: hopeless, at: 1m, expect: MayFail, action: {component: {name: never, op: Start}}}
- {name: orphan, after: hopeless, action: {component: {name: orphan, op: Start}}}
probes: [{admin: {}}]
recovered: [{probe: admin, consecutive: 3}]
hypothesis:
- {name: fast, probe: admin, metric: successRatio, op: ">=", value: 0.5}
- {name: repaired, metric: mitigationSeconds, op: "<=", value: 5}
end: {at: 50m, whenRecovered: true}
`

// world is a target in memory: the server is well until it is broken, and again two seconds after its repair.
type world struct {
	mu               sync.Mutex
	broken, repaired time.Time
	attempts         int
}

func (w *world) Config(v1alpha1.DrillIdentity) (*rest.Config, error) { return &rest.Config{}, nil }
func (w *world) APIServers() []APIServer                             { return []APIServer{{Name: "server"}} }
func (w *world) Components() []Component                             { return nil }
func (w *world) DNS() DNS                                            { return DNS{} }

func (w *world) well() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken.IsZero() {
		return true
	}
	return !w.repaired.IsZero() && time.Since(w.repaired) >= 2*time.Second
}

type worldAction struct {
	w    *world
	name string
}

func (a worldAction) Do(ctx context.Context) error {
	switch a.name {
	case "server":
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		a.w.broken = time.Now()
	case "repair":
		if a.w.attempts++; a.w.attempts < 4 {
			<-ctx.Done() // the first three attempts get no answer
			return errors.New("no answer")
		}
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		a.w.repaired = time.Now()
	case "never":
		return errors.New("it cannot be done")
	}
	return nil
}

type worldProbe struct{ w *world }

func (p worldProbe) Run(ctx context.Context, sink Sink) error {
	OpenLoop(ctx, 500*time.Millisecond, func(_ context.Context, _ int, due time.Time) {
		if ctx.Err() != nil {
			return
		}
		outcome := Timeout
		if p.w.well() {
			outcome = OK
		}
		sink.Record("get", due, 10*time.Millisecond, outcome)
	})
	return nil
}

func loadStory(t *testing.T) *v1alpha1.Drill {
	t.Helper()
	d, _, err := config.LoadKind[*v1alpha1.Drill]("-", strings.NewReader(story))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func runStory(t *testing.T, ctx context.Context, d *v1alpha1.Drill, transcript *[]string) (*Result, error) {
	t.Helper()
	w := &world{}
	return Run(ctx, d, w, Options{
		Layers:    "none",
		NewAction: func(a v1alpha1.DrillAction, _ Env) (Action, error) { return worldAction{w, a.Component.Name}, nil },
		NewProbe:  func(v1alpha1.DrillProbe, Env) (string, Probe, error) { return "admin", worldProbe{w}, nil },
		Scrape: func(context.Context, APIServer) (signals.APIServer, error) {
			return signals.APIServer{}, errors.New("no metrics here")
		},
		Progress: func(line string) {
			if transcript != nil {
				*transcript = append(*transcript, line)
			}
		},
	})
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := runStory(t, t.Context(), loadStory(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range r.Phases {
			got = append(got, fmt.Sprintf("phase %s %v–%v", p.Name, p.Start, p.End.Round(time.Second)))
		}
		for _, s := range r.Steps {
			got = append(got, fmt.Sprintf("step %s %s %v–%v attempts %d %s", s.Name, s.Status, s.Start, s.End.Round(time.Second), s.Attempts, s.Error))
		}
		// The repair's attempts begin at 10 s and then every second; the fourth, at 13 s, succeeds at once. The server
		// answers again from 15 s. The remedy was needed at 5 s, and at 19 s the run is over.
		want := []string{
			"phase baseline -5s–0s",
			"phase fault 0s–13s",
			"phase recovery 13s–16s",
			"step break Done 0s–0s attempts 1 ",
			"step repair Done 10s–13s attempts 4 ",
			"step again Done 15s–15s attempts 1 ",
			"step remedy Done 5s–5s attempts 1 ",
			"step needless NotReached 0s–16s attempts 0 the run ended first",
			"step hopeless Failed 1s–1s attempts 1 it cannot be done",
			"step orphan NotReached 0s–1s attempts 0 step hopeless did not succeed",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("transcript (-want +got):\n%s", diff)
		}
		if r.Mitigation == nil || *r.Mitigation != 3*time.Second {
			t.Errorf("mitigation: want 3s, got %v", r.Mitigation)
		}
		if r.Recovery == nil || *r.Recovery != 2*time.Second {
			t.Errorf("recovery: want 2s, from the repair to the first of the good answers, got %v", r.Recovery)
		}
		if len(r.Problems) != 0 {
			t.Errorf("want no problem, got %q", r.Problems)
		}
		verdicts := []Verdict{}
		for _, j := range Judge(r) {
			verdicts = append(verdicts, j.Verdict)
		}
		if want := []Verdict{Fail, Pass}; !slices.Equal(verdicts, want) {
			t.Errorf("verdicts: want %v, got %v", want, verdicts)
		}
		if p := r.Signals[0]; p.Error == "" {
			t.Errorf("a scrape that failed must say so, got %+v", p)
		}
	})
}

func TestRunSkipsWhatIsNotNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := loadStory(t)
		d.Timeline = slices.DeleteFunc(d.Timeline, func(s v1alpha1.DrillStep) bool { return s.Name == "break" })
		r, err := runStory(t, t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range r.Steps {
			if s.Name == "remedy" && s.Status != StepSkipped {
				t.Errorf("remedy: want Skipped, got %s", s.Status)
			}
		}
	})
}

// rolling is a world where a change is rolled out until a time.
type rolling struct {
	world
	until time.Time
}

func (r *rolling) RollOut(context.Context, []string) (bool, error) { return true, nil }
func (r *rolling) RolledOut() bool                                 { return !time.Now().Before(r.until) }

// A run is over when the rollout is, and not before its steps are.
func TestRunEndsWithTheRollout(t *testing.T) {
	for name, c := range map[string]struct{ rollout, want time.Duration }{
		"the rollout is the last": {25 * time.Second, 25 * time.Second},
		"a step is the last":      {time.Second, 19 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := loadStory(t)
				d.Timeline = slices.DeleteFunc(d.Timeline, func(s v1alpha1.DrillStep) bool { return s.Name != "needless" })
				d.Phases = d.Phases[:2]
				w := &rolling{until: time.Now().Add(5*time.Second + c.rollout)} // five seconds are before the fault
				r, err := Run(t.Context(), d, w, Options{
					Layers: "none",
					NewAction: func(a v1alpha1.DrillAction, _ Env) (Action, error) {
						return worldAction{&w.world, a.Component.Name}, nil
					},
					NewProbe: func(v1alpha1.DrillProbe, Env) (string, Probe, error) { return "admin", worldProbe{&w.world}, nil },
				})
				if err != nil {
					t.Fatal(err)
				}
				if got := r.End.Truncate(time.Second); got != c.want {
					t.Errorf("want the end at %v, got %v", c.want, r.End)
				}
			})
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		r, err := runStory(t, ctx, loadStory(t), nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("want the context's error, got %v", err)
		}
		if r.End != 2*time.Second {
			t.Errorf("end: want 2s, got %v", r.End)
		}
	})
}

// lasting is an action that goes on beside the run, and takes a second to put right what it did.
type lasting struct {
	env  Env
	said *[]string
	zero time.Time
}

func (l lasting) Do(context.Context) error {
	say := func(what string) { *l.said = append(*l.said, fmt.Sprintf("%s %v", what, time.Since(l.zero))) }
	l.env.Beside(Beside{
		While: func(ctx context.Context) {
			<-ctx.Done()
			say("ended")
		},
		Undo: func(ctx context.Context) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			<-time.After(time.Second)
			say("undone")
			return errors.New("it stays broken")
		},
	})
	return nil
}

// What a step left running ends with the run, and is undone after it, also when the run was cut short; that takes no time of it.
func TestWhatGoesOnIsUndone(t *testing.T) {
	for name, limit := range map[string]time.Duration{"at its end": time.Hour, "cut short": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				d := loadStory(t)
				d.Phases, d.Timeline, d.End.WhenRecovered = d.Phases[:2], d.Timeline[:1], false
				d.Phases[0].At.Duration, d.End.At.Duration = -time.Minute, 10*time.Minute
				zero := time.Now()
				var said []string
				r, err := Run(ctx, d, &world{}, Options{
					NewAction: func(_ v1alpha1.DrillAction, env Env) (Action, error) { return lasting{env, &said, zero}, nil },
					NewProbe:  func(v1alpha1.DrillProbe, Env) (string, Probe, error) { return "admin", worldProbe{&world{}}, nil },
				})
				if !errors.Is(err, ctx.Err()) {
					t.Errorf("the run ended with %v", err)
				}
				want := min(limit, 11*time.Second)
				if diff := cmp.Diff([]string{fmt.Sprintf("ended %v", want), fmt.Sprintf("undone %v", want+time.Second)}, said); diff != "" {
					t.Errorf("what went on (-want +got):\n%s", diff)
				}
				if got := r.End + time.Second; got != want {
					t.Errorf("the run took %v, want %v", got, want)
				}
				if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "it stays broken") {
					t.Errorf("problems: %q", r.Problems)
				}
			})
		})
	}
}

func TestFailedStepIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := loadStory(t)
		for i := range d.Timeline {
			d.Timeline[i].Expect = v1alpha1.ExpectSuccess
		}
		r, err := runStory(t, t.Context(), d, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "hopeless") {
			t.Errorf("want one problem that names the step, got %q", r.Problems)
		}
	})
}

func TestOpenLoopCountsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 950*time.Millisecond)
		defer cancel()
		began := time.Now()
		rec := NewRecorder(began)
		sink := rec.Sink("p")
		// The answer comes at 1 s, whenever it was asked for: each question waits for less than the one before it.
		OpenLoop(ctx, 100*time.Millisecond, func(_ context.Context, _ int, due time.Time) {
			<-time.After(time.Until(began.Add(time.Second)))
			sink.Record("s", due, time.Since(due), OK)
		})
		if got := len(rec.Samples()); got != 10 {
			t.Fatalf("want 10 questions in 950ms, got %d: a slow answer must not hold the next question up", got)
		}
		for _, s := range rec.Samples() {
			if s.Due+s.Latency != time.Second {
				t.Errorf("due at %v: want the wait until 1s, got %v", s.Due, s.Latency)
			}
		}
	})
}

func TestQueuedCountsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		began := time.Now()
		var got []string
		Queued(ctx, time.Second, func(_ context.Context, n int, due time.Time) {
			if n == 1 {
				<-time.After(2500 * time.Millisecond) // of the fake clock
			}
			got = append(got, fmt.Sprintf("asked %v", due.Sub(began)))
		}, func(due time.Time) { got = append(got, fmt.Sprintf("waited %v", due.Sub(began))) })
		want := []string{"asked 0s", "asked 1s", "waited 2s", "waited 3s", "asked 4s"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}
