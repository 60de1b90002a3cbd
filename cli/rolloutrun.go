package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
)

// rolloutRun are the flags of `rollout run`.
type rolloutRun struct {
	rolloutCarry
	file, fleet string
	output      string
	dryRun      bool
	exitOnPause bool
	resume      string
	listen      rolloutListen
}

func newRolloutRun(env *Env) *cobra.Command {
	var o rolloutRun
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Carry a rollout out, or go on with one that is under way",
		Long: `Reads a Rollout and a Fleet, surveys the clusters, makes the plan and carries it out. Everything that can be known before the
first node moves is checked first, and refused with the field at fault. What the change's own manifests show to grow with a cluster
is named, as 'seakeep forecast lint' does; what it costs is measured.

A run of the same rollout that is under way in the state folder is gone on with. If the file says something else than when that
run began, it is refused: a run keeps to what it began with. Abort it or take it back, and begin another.

Ends with 0 when the change is everywhere, with 3 when it was taken back or aborted, and with 130 when it is interrupted:
then everything stands still where it is.`,
		Example: `  seakeep rollout run -f telemetry.yaml --fleet fleet.yaml --dry-run
  seakeep rollout run -f docs/examples/telemetry.yaml --state-dir ./state
  seakeep rollout run --continue telemetry-20261126-211500-1a2b3c --fleet fleet.yaml`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runRollout(cmd.Context(), env, &o) },
	}
	o.rolloutCarry.flags(cmd)
	o.listen.flags(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	flags := cmd.Flags()
	flags.StringVarP(&o.file, "file", "f", "", "`file` with a Rollout, and with a Fleet unless --fleet names another; - is standard input")
	flags.StringVar(&o.fleet, "fleet", "", "`file` with the Fleet")
	flags.StringVar(&o.resume, "continue", "", "go on with this `run`, as it was planned; -f is not needed then")
	flags.BoolVar(&o.dryRun, "dry-run", false, "survey the clusters and print the plan; write nothing")
	flags.BoolVar(&o.exitOnPause, "exit-on-pause", false, "end with code 3 when the run pauses, for CI; what is moved stays as it is")
	flags.StringVarP(&o.output, "output", "o", "table", "table | json")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json")
	_ = cmd.MarkFlagFilename("fleet", "yaml", "yml", "json")
	_ = cmd.RegisterFlagCompletionFunc("continue", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *rolloutRun) check() error {
	switch {
	case o.output != "table" && o.output != "json":
		return usageError(fmt.Errorf("output must be table or json, got %q", o.output), rolloutHint)
	case o.file == "" && o.resume == "":
		return usageError(errors.New("run needs -f FILE, or --continue RUN"), rolloutHint)
	case o.resume != "" && o.dryRun:
		return usageError(errors.New("--dry-run is for a plan that is not made yet, --continue for one that is"), rolloutHint)
	}
	if err := o.rolloutCarry.check(); err != nil {
		return err
	}
	return o.listen.check()
}

// read reads the files. The rollout is nil when a run is gone on with.
func (o *rolloutRun) read(env *Env) (rollout *v1alpha1.Rollout, members *v1alpha1.Fleet, err error) {
	for _, file := range []string{o.file, o.fleet} {
		if file == "" {
			continue
		}
		docs, err := config.Load(file, env.Stdin)
		if err != nil {
			return nil, nil, usageError(err, "'seakeep config defaults Rollout' and 'seakeep config defaults Fleet' print what there is")
		}
		for _, d := range docs {
			switch object := d.Object.(type) {
			case *v1alpha1.Rollout:
				if rollout != nil {
					return nil, nil, usageError(fmt.Errorf("%s: there is more than one Rollout", file), "")
				}
				rollout = object
			case *v1alpha1.Fleet:
				if members != nil && file == o.file {
					return nil, nil, usageError(fmt.Errorf("%s: there is more than one Fleet", file), "")
				}
				members = object
			default:
				return nil, nil, usageError(fmt.Errorf("%s: a %s is neither Rollout nor Fleet", file, d.Kind), "")
			}
		}
	}
	switch {
	case rollout == nil && o.resume == "":
		return nil, nil, usageError(fmt.Errorf("%s: there is no Rollout", o.file), "")
	case members == nil:
		return nil, nil, usageError(errors.New("there is no Fleet: which clusters?"), "put one into the file, or name its file with --fleet")
	}
	return rollout, members, nil
}

func runRollout(ctx context.Context, env *Env, o *rolloutRun) error {
	if err := o.check(); err != nil {
		return err
	}
	rollout, members, err := o.read(env)
	if err != nil {
		return err
	}
	if o.file != "" { // what is read from standard input names files of the working folder
		if o.folder, err = filepath.Abs(filepath.Dir(o.file)); err != nil {
			return err
		}
	}
	clusters, err := o.load(ctx, members, nil)
	if err != nil {
		return err
	}
	if o.dryRun {
		p, _, err := planRollout(ctx, rollout, "dry-run", clusters)
		if err != nil {
			return err
		}
		return o.writePlan(env.Stdout, rollout, p)
	}
	j, err := journal.Open(o.state.dir)
	if err != nil {
		hint := "--state-dir names another folder"
		if errors.Is(err, journal.ErrBusy) {
			hint = "'seakeep rollout status' shows what it does; a second rollout needs a --state-dir of its own"
		}
		return withHint(err, hint)
	}
	defer j.Close()
	run, err := o.begin(ctx, env, j, rollout, clusters)
	if err != nil {
		return err
	}
	return o.carry(ctx, env, j, run, clusters)
}

// begin finds the run that is under way, or plans and records a new one.
func (o *rolloutRun) begin(ctx context.Context, env *Env, j *journal.Journal, r *v1alpha1.Rollout, clusters map[string]fleet.Cluster) (string, error) {
	if o.resume != "" {
		runs, err := j.Runs()
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(runs, func(run journal.Run) bool { return run.ID == o.resume }) {
			return "", usageError(fmt.Errorf("there is no run %q in %s", o.resume, o.state.dir), "'seakeep rollout history' lists them")
		}
		return o.resume, nil
	}
	under, err := engine.Unfinished(j, r)
	var mixed *engine.MixedError
	if errors.As(err, &mixed) {
		return "", usageError(err, fmt.Sprintf("go on with 'seakeep rollout run --continue %s', or end it with 'seakeep rollout abort %[1]s' or 'rollback'", mixed.Run))
	}
	if err != nil {
		return "", err
	}
	if under != nil {
		fmt.Fprintf(env.Stderr, "going on with run %s, which is %s\n", under.ID, under.Phase)
		return under.ID, nil
	}
	return o.rolloutCarry.begin(ctx, env, j, r, nil, clusters)
}

// carry carries the run out and says how it ended.
func (o *rolloutRun) carry(ctx context.Context, env *Env, j *journal.Journal, run string, clusters map[string]fleet.Cluster) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var look func() engine.View
	ended, err := o.rolloutCarry.carry(ctx, env, j, run, clusters, rolloutTold{
		event: func(event journal.Event) {
			if o.output == "table" {
				_ = writeRolloutEvent(env.Stdout, event) // who closes the pipe has seen enough
			}
			if o.exitOnPause && event.Type == journal.Warning && strings.HasPrefix(event.Message, string(journal.Paused)) {
				cancel(errPaused)
			}
		},
		ready: func(ctx context.Context, view func() engine.View, r *v1alpha1.Rollout) (func(), error) {
			look = view
			if waits, err := o.waits(view()); waits || err != nil {
				cancel(errPaused)
				return func() {}, err
			}
			if o.output == "table" {
				fmt.Fprintf(env.Stdout, "run %s in %s\n", run, o.state.dir)
			}
			if o.listen.address == "" {
				return func() {}, nil
			}
			address, wait, err := o.listen.serve(ctx, view, r.Analysis.MaxDataAge.Duration, env.Log())
			if err == nil {
				fmt.Fprintf(env.Stderr, "answering at %s\n", address)
			}
			return wait, err
		},
	})
	if look == nil {
		return err
	}
	view := look()
	switch {
	case o.output == "json":
		if err := writeJSON(env.Stdout, view, true); err != nil {
			return err
		}
	default:
		if err := writeRollout(env.Stdout, &view, time.Now()); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(err, errPaused):
		return findings()
	case err != nil:
		return err
	case ended.Phase != journal.Completed:
		return findings()
	}
	return nil
}

// waits is true for a run that is paused already, and that nobody has told to go on: no event will say so.
func (o *rolloutRun) waits(v engine.View) (bool, error) {
	if !o.exitOnPause || v.Phase != journal.Paused {
		return false, nil
	}
	orders, _, err := journal.Orders(o.state.dir)
	return !slices.ContainsFunc(orders, func(order journal.Placed) bool { return order.Run == v.ID }), err
}

var errPaused = errors.New("the run paused")

// writePlan prints what would be done.
func (o *rolloutRun) writePlan(w io.Writer, r *v1alpha1.Rollout, p *plan.Plan) error {
	if o.output == "json" {
		return writeJSON(w, p, true)
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "STAGE\tAT ONCE\tCLUSTER\tNODES\tSTEPS\tUNAVAILABLE\tTASKS")
	for _, s := range p.Stages {
		tasks := len(s.Before) + len(s.After)
		for i, l := range s.Legs {
			name, once, todo := "", "", ""
			if i == 0 {
				name, once = s.Name, fmt.Sprint(s.Concurrency)
				if tasks > 0 {
					todo = counted(tasks, "task")
				}
			}
			var steps []string
			for _, step := range l.Steps {
				steps = append(steps, fmt.Sprint(step.Nodes))
			}
			fmt.Fprintf(tab, "%s\t%s\t%s\t%d\t%s\t%d\t%s\n", name, once, l.Cluster, l.Nodes, strings.Join(steps, " → "), l.MaxUnavailable, todo)
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := writeRisks(w, p.Risks); err != nil {
		return err
	}
	fmt.Fprintf(w, "The largest cluster is %s. %s may fail, %d may be unreachable. Nothing was written.\n", p.Largest, counted(p.MaxFailures, "cluster"), p.MaxSkipped)
	if r.Change.Whole() && r.ScaleGate.Mode != v1alpha1.Disabled {
		fmt.Fprintln(w, "There is no scale gate: it forecasts from nodes, and this change comes to each cluster whole.")
	}
	if len(p.Unselected) > 0 {
		fmt.Fprintf(w, "No stage selects %s.\n", strings.Join(p.Unselected, ", "))
	}
	return nil
}
