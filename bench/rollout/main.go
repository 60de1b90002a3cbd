// Command rollout measures how well a change that does harm is told from one that does none, how soon, and how fast it is taken
// back when it has saturated the API server. Each change is a Drill, a file of the folder trials: a crash loop, DNS that breaks, a
// control plane that is asked too much, a leak, a node that falls sick, latency alone, and changes that do no harm. Each is run
// live on two labs, one with the change and one without; many more courses of them are drawn from what was recorded. Beside
// the verdict stand a gate that knows readiness only, and thresholds that somebody wrote down once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The judges.
const (
	subject   = "seakeep"
	readiness = "readiness only"
	fixed     = "fixed thresholds"
)

// options are how a run is made.
type options struct {
	run.Options
	live    bool
	rolled  bool
	rescues int
	drawn   int
	seed    uint64
	traces  string
	record  bool
	again   bool
	seakeep string
}

func main() {
	agents.Become()
	run.Main(run.Part{Name: "rollout", Subject: subject}, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(_ context.Context, dir string, say run.Say) (run.Rig, error) {
			return &rig{options: o, dir: dir, say: say}, nil
		}, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	o.Options, err = run.Parse("rollout", args, getenv, stderr, func(flags *flag.FlagSet) {
		flags.BoolVar(&o.live, "live", true, "run every trial live")
		flags.BoolVar(&o.rolled, "rolled", true, "have `seakeep rollout run` carry every trial out")
		flags.IntVar(&o.rescues, "rescues", 3, "how often a saturated API server is rolled back")
		flags.IntVar(&o.drawn, "drawn", 140, "trials drawn from traces")
		flags.Uint64Var(&o.seed, "seed", 1, "draws them")
		flags.StringVar(&o.traces, "traces", "bench/rollout/testdata", "`folder` of the traces")
		flags.BoolVar(&o.record, "record", false, "write the traces anew, from this run")
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` that rolls back a saturated API server")
		flags.BoolVar(&o.again, "again", false, "judge the traces of a live run again, as they are, instead of a live run")
	})
	if o.again {
		o.live = false
	}
	if err == nil && (o.drawn < 0 || o.rescues < 0 || o.record && !o.live) {
		err = errors.New("drawn and rescues must be ≥ 0, and record needs live")
	}
	return o, err
}

// rig is the run.
type rig struct {
	options options
	dir     string
	say     run.Say
}

// folder is one of the run's.
func (r *rig) folder(name string) string { return filepath.Join(r.dir, name) }

// Close implements run.Rig: clusters end where they are used.
func (r *rig) Close() {}

// Setup implements run.Rig.
func (r *rig) Setup(context.Context) []string {
	return []string{
		"Live: a lab of 12 nodes and 500 pods, its API server bound to one CPU, with two real CoreDNS, 40 writes and 60 reads a second of others; and one of 3 nodes without the change. Each trial is a Drill, run by the drills' engine: a DaemonSet under OnDelete comes to 1–3 nodes in a new version; it is judged every 500 ms with 3 looks in a row, and passes when it was well for 9 s.",
		"What a kubelet would report of a crash or of a node without memory is reported in its place: the nodes are simulated. Requests, watches, the webhook, DNS servers that end, and everything that judges are real.",
		"By seakeep rollout run: the same Drills, where the program itself brings the change to three nodes of each cluster, one and then the others, with looks every second, bakes of 12 s, its scale gate, and the rungs freeze, apf and revert; what a trial does begins with its 1–3 nodes. Nothing but it takes a bad change back.",
		fmt.Sprintf("Drawn: %d courses from the traces of such runs: another time before the change, 4 %% of looks missing, latencies up to a half different and drifting on both clusters, single wild values, lost DNS answers, mishaps of bystanders.", r.options.drawn),
		"readiness only: all pods of the change are ready 4 s after, and stay so. fixed thresholds: an AnalysisTemplate with Kubernetes' latency objectives, 1 % refused, 85 % processor, 99 % DNS and readiness, failureLimit 2. Both judge the same records.",
		"Rescue: `seakeep rollout run` brings the change to three nodes, whose 24 clients LIST all pods without pause then. It finds that by itself, jails the component in API Priority and Fairness and takes the change back, with credentials that are exempt. Times count from its event Failed; what the component costs is read every half second beside it.",
		run.LoadAverage(),
	}
}

// judged is one trial with all judges' outcomes.
type judged struct {
	trial trial
	live  bool
	by    map[string]outcome
}

// Measure implements run.Rig.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	trials, err := loadTrials()
	if err != nil {
		return err
	}
	var all []judged
	var rolled []rolledTrial
	if r.options.live || r.options.rolled || r.options.rescues > 0 {
		labs, err := newLabRig(ctx, r.dir, trials[0].Drill, r.options, r.say)
		if err != nil {
			return err
		}
		defer labs.close()
		if r.options.live {
			done, err := r.measureLive(ctx, labs, trials)
			if err != nil {
				return err
			}
			all = append(all, done...)
		}
		if r.options.rolled {
			if rolled, err = r.measureRolled(ctx, labs, trials); err != nil {
				return err
			}
			report.Cases = append(report.Cases, rolledCases(rolled)...)
		}
		if r.options.rescues > 0 {
			if err := r.measureRescues(ctx, labs, report); err != nil {
				return err
			}
		}
	}
	if r.options.again {
		again, err := judgeAgain(ctx, trials, r.options.traces)
		if err != nil {
			return err
		}
		for _, j := range again {
			o := j.by[subject]
			r.say("again %-16s %-7s after %-6s (%d looks, attributed %t): %s; readiness only %s, thresholds %s", j.trial.Name, o.verdict, o.took.Round(100*time.Millisecond), o.looks, o.attributed, o.why, j.by[readiness].verdict, j.by[fixed].verdict)
		}
		all = append(all, again...)
	}
	if r.options.drawn > 0 {
		drawn, err := draw(ctx, trials, r.options.traces, r.options.drawn, r.options.seed)
		if err != nil {
			return err
		}
		for _, j := range drawn {
			if j.wrong() {
				r.say("drawn %s: %s after %s: %s", j.trial.Name, j.by[subject].verdict, j.by[subject].took.Round(100*time.Millisecond), j.by[subject].why)
			}
		}
		all = append(all, drawn...)
	}
	if len(all) > 0 {
		report.Cases = append(summary(all, func(j judged) bool { return true }, "all trials"), report.Cases...)
		report.Cases = append(report.Cases, classes(all)...)
	}
	if err := r.measurePlanner(ctx, report); err != nil {
		return err
	}
	r.explain(report, all, rolled)
	return nil
}

// explain says, for a target that was missed, which trials it was missed with.
func (r *rig) explain(report *result.Report, all []judged, rolled []rolledTrial) {
	const name = "what was judged wrong, and what took how long"
	var top []string
	for _, j := range all {
		if j.wrong() {
			top = append(top, fmt.Sprintf("%s (%s, live %t): %s after %s: %s", j.trial.Name, j.trial.class, j.live, j.by[subject].verdict, j.by[subject].took.Round(100*time.Millisecond), j.by[subject].why))
		}
	}
	for _, o := range rolled {
		if !o.right() {
			top = append(top, fmt.Sprintf("%s (%s, rolled out) ended as %s: %s", o.trial.Name, o.trial.class, o.phase, o.why))
		}
	}
	if len(top) == 0 {
		top = []string{"nothing was judged wrong"}
	}
	missed := false
	for i := range report.Cases {
		if c := &report.Cases[i]; c.Met != nil && !*c.Met {
			c.Profile, missed = name, true
		}
	}
	if missed {
		report.Profiles = append(report.Profiles, result.Profile{Name: name, Top: top})
	}
}

// wrong is true when the verdict is not what the change is.
func (j judged) wrong() bool { return (j.by[subject].verdict == verdict.Fail) != j.trial.bad }

func (r *rig) measureLive(ctx context.Context, labs *labRig, trials []trial) ([]judged, error) {
	atLeast := othersNeed
	if r.options.record {
		atLeast = patience
	}
	var all []judged
	for n, t := range trials {
		if !r.options.Wanted(t.Name) {
			continue
		}
		o, recorded, err := labs.live(ctx, t, n+1, atLeast)
		if err != nil {
			// What went wrong is the rig's, and the other trials are worth having; the report says how many there were.
			r.say("trial %s could not be run: %v", t.Name, err)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		f, err := fixedThresholds(recorded)
		if err != nil {
			return nil, err
		}
		j := judged{trial: t, live: true, by: map[string]outcome{subject: o, readiness: readinessOnly(recorded), fixed: f}}
		r.say("live %-16s %-7s after %-6s (%d looks, attributed %t): %s; readiness only %s, thresholds %s; the drill: %s", t.Name, o.verdict, o.took.Round(100*time.Millisecond), o.looks, o.attributed, o.why, j.by[readiness].verdict, f.verdict, o.judged)
		if r.options.record {
			if err := recorded.write(r.options.traces); err != nil {
				return nil, err
			}
		}
		all = append(all, j)
	}
	return all, nil
}

// judgeAll has every judge look at a trace.
func judgeAll(ctx context.Context, t trial, course *trace) (judged, error) {
	o, err := replayed(ctx, course)
	if err != nil {
		return judged{}, fmt.Errorf("judging a course of %s: %w", t.Name, err)
	}
	f, err := fixedThresholds(course)
	if err != nil {
		return judged{}, err
	}
	return judged{trial: t, by: map[string]outcome{subject: o, readiness: readinessOnly(course), fixed: f}}, nil
}

// judgeAgain judges the traces of a live run as they are.
func judgeAgain(ctx context.Context, trials []trial, dir string) ([]judged, error) {
	traces, err := readTraces(dir)
	if err != nil {
		return nil, err
	}
	var all []judged
	for _, t := range trials {
		recorded, ok := traces[t.Name]
		if !ok {
			continue // it was not among those that were recorded
		}
		j, err := judgeAll(ctx, t, recorded)
		if err != nil {
			return nil, err
		}
		j.live = true
		all = append(all, j)
	}
	return all, nil
}

// draw judges courses drawn from traces, as many good ones as bad ones, every trial in turn.
func draw(ctx context.Context, trials []trial, dir string, n int, seed uint64) ([]judged, error) {
	traces, err := readTraces(dir)
	if err != nil {
		return nil, err
	}
	var kinds [2][]trial
	for _, t := range trials {
		if _, ok := traces[t.Name]; !ok {
			continue
		}
		if t.bad {
			kinds[0] = append(kinds[0], t)
		} else {
			kinds[1] = append(kinds[1], t)
		}
	}
	if len(kinds[0]) == 0 || len(kinds[1]) == 0 {
		return nil, fmt.Errorf("the traces in %s must be of bad changes and of good ones", dir)
	}
	var all []judged
	for i := range n {
		kind := kinds[i%2]
		t := kind[i/2%len(kind)]
		j, err := judgeAll(ctx, t, vary(traces[t.Name], seed*1_000_003+uint64(i)))
		if err != nil {
			return nil, err
		}
		all = append(all, j)
	}
	return all, nil
}

// counts are how a judge did.
type counts struct{ hit, missed, alarm, quiet int }

func count(all []judged, judge string) counts {
	var c counts
	for _, j := range all {
		fails := j.by[judge].verdict == verdict.Fail
		switch {
		case j.trial.bad && fails:
			c.hit++
		case j.trial.bad:
			c.missed++
		case fails:
			c.alarm++
		default:
			c.quiet++
		}
	}
	return c
}

func (c counts) precision() (k, n int) { return c.hit, c.hit + c.alarm }
func (c counts) recall() (k, n int)    { return c.hit, c.hit + c.missed }

func ratio(k, n int) float64 {
	if n == 0 {
		return 0
	}
	return float64(k) / float64(n)
}

// summary are precision, recall and time to verdict over trials.
func summary(all []judged, want func(judged) bool, name string) []result.Case {
	all = slices.DeleteFunc(slices.Clone(all), func(j judged) bool { return !want(j) })
	share := func(metric, target string, least float64, of func(counts) (int, int)) result.Case {
		c := result.Case{Case: name, Metric: metric, Unit: "ratio", Baselines: map[string]float64{}, Spread: map[string]result.Range{}, Runs: len(all)}
		var notes []string
		for _, judge := range []string{subject, readiness, fixed} {
			k, n := of(count(all, judge))
			low, high := wilson(k, n)
			c.Spread[judge] = result.Range{Min: low, Max: high}
			notes = append(notes, fmt.Sprintf("%s %d of %d", judge, k, n))
			if judge == subject {
				c.Value = ratio(k, n)
			} else {
				c.Baselines[judge] = ratio(k, n)
			}
		}
		c.Note = "the spread is Wilson's interval at 95 %; " + strings.Join(notes, ", ")
		met := c.Value >= least
		c.Target, c.Met = target, &met
		return c
	}
	cases := []result.Case{
		share("precision", "≥ 0.9", 0.9, counts.precision),
		share("recall", "≥ 0.95", 0.95, counts.recall),
	}
	taken := result.Case{Case: name, Metric: "time to Fail", Unit: "s", Baselines: map[string]float64{}, Spread: map[string]result.Range{}, Runs: len(all), Note: "of the bad changes that were detected, from the exposure; a look is every 500 ms"}
	for _, judge := range []string{subject, readiness, fixed} {
		var times []float64
		for _, j := range all {
			if o := j.by[judge]; j.trial.bad && o.verdict == verdict.Fail {
				times = append(times, o.took.Seconds())
			}
		}
		if len(times) == 0 {
			continue
		}
		slices.Sort(times)
		taken.Spread[judge] = result.Range{Min: times[0], Max: times[len(times)-1]}
		if median := times[len(times)/2]; judge == subject {
			taken.Value = median
		} else {
			taken.Baselines[judge] = median
		}
	}
	if _, ok := taken.Spread[subject]; ok {
		cases = append(cases, taken)
	}
	unknown, attributed := 0, 0
	for _, j := range all {
		if !j.trial.bad && j.by[subject].verdict == verdict.Unknown {
			unknown++
		}
		if j.trial.bad && j.by[subject].attributed {
			attributed++
		}
	}
	good := 0
	for _, j := range all {
		if !j.trial.bad {
			good++
		}
	}
	none := map[string]float64{}
	return append(cases,
		result.Case{Case: name, Metric: "good changes without a verdict", Unit: "count", Value: float64(unknown), Baselines: none, Spread: map[string]result.Range{subject: {Min: float64(unknown), Max: float64(unknown)}}, Runs: good, Note: "Unknown when the trial ended: nothing was stopped, and nothing let on"},
		result.Case{Case: name, Metric: "bad changes that are taken back by themselves", Unit: "count", Value: float64(attributed), Baselines: none, Spread: map[string]result.Range{subject: {Min: float64(attributed), Max: float64(attributed)}}, Runs: len(all) - good, Note: "the others are frozen, their load is taken away, and people are told: nothing shows that the change is to blame"},
	)
}

// classes is recall by class, and the share of good changes that were stopped; live trials apart.
func classes(all []judged) []result.Case {
	groups := map[string][]judged{}
	for _, j := range all {
		groups[j.trial.class] = append(groups[j.trial.class], j)
		if j.live {
			groups["live"] = append(groups["live"], j)
		}
	}
	var cases []result.Case
	for _, class := range slices.Sorted(maps.Keys(groups)) {
		if class == "live" {
			cases = append(cases, summary(groups[class], func(judged) bool { return true }, "live trials")...)
			continue
		}
		c := result.Case{Case: class, Metric: "stopped", Unit: "ratio", Baselines: map[string]float64{}, Spread: map[string]result.Range{}, Runs: len(groups[class])}
		for _, judge := range []string{subject, readiness, fixed} {
			k := 0
			for _, j := range groups[class] {
				if j.by[judge].verdict == verdict.Fail {
					k++
				}
			}
			low, high := wilson(k, len(groups[class]))
			c.Spread[judge] = result.Range{Min: low, Max: high}
			if judge == subject {
				c.Value = ratio(k, len(groups[class]))
			} else {
				c.Baselines[judge] = ratio(k, len(groups[class]))
			}
		}
		cases = append(cases, c)
	}
	return cases
}

func (r *rig) measureRescues(ctx context.Context, labs *labRig, report *result.Report) error {
	var all []rescue
	for n := range r.options.rescues {
		one, err := labs.rescue(ctx, r.options.seakeep, r.folder(fmt.Sprint("rescue-", n)), 1000+n)
		if err != nil {
			return fmt.Errorf("rescue %d: %w", n+1, err)
		}
		r.say("rescue %d: the component executed for %.1f s a second, the API server used %.2f processors; found after %s; from then on: first measure after %s, cost down by 95 %% after %s, change gone after %s (%s)", n+1, one.cost, one.busy, one.found.Round(10*time.Millisecond), one.starts.Round(time.Millisecond), one.effective.Round(10*time.Millisecond), one.reverted.Round(10*time.Millisecond), one.why)
		all = append(all, one)
		if err := run.Pause(ctx, 3*time.Second); err != nil {
			return err
		}
	}
	busy := make([]float64, len(all))
	for i, one := range all {
		busy[i] = one.busy
	}
	report.Setup = append(report.Setup, fmt.Sprintf("Before each rollback, %d agents of the change on 3 nodes LISTed all pods; the API server, which has one processor, used %.2f to %.2f of it.", 3*agentsPerNode, slices.Min(busy), slices.Max(busy)))
	add := func(metric, target string, most float64, of func(rescue) time.Duration) {
		var times []float64
		for _, one := range all {
			times = append(times, of(one).Seconds())
		}
		slices.Sort(times)
		c := result.Case{
			Case: "rollback of a saturated API server", Metric: metric, Unit: "s", Value: times[len(times)/2], Baselines: map[string]float64{},
			Spread: map[string]result.Range{subject: {Min: times[0], Max: times[len(times)-1]}}, Runs: len(times),
		}
		if most > 0 {
			met := times[len(times)-1] <= most && times[0] >= 0
			c.Target, c.Met = target, &met
		}
		report.Cases = append(report.Cases, c)
	}
	add("found, from the first LIST on", "", 0, func(o rescue) time.Duration { return o.found })
	add("first measure", "≤ 5, each", 5, func(o rescue) time.Duration { return o.starts })
	add("cost of the component −95 %", "≤ 15, each", 15, func(o rescue) time.Duration { return o.effective })
	add("change taken back", "", 0, func(o rescue) time.Duration { return o.reverted })
	return nil
}
