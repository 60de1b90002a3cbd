package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
)

const rolloutHint = "see 'seakeep rollout --help'"

// defaultRolloutState is where runs are kept.
const defaultRolloutState = "/var/lib/seakeep/rollout"

// newRollout is `seakeep rollout`.
func newRollout(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Bring a change to clusters in stages and to nodes in steps, and stop it before it is an outage",
		Long: `A rollout goes to clusters in stages and to nodes in steps. Nothing moves without a fresh look that says Pass; Unknown never
advances. After the first stage the largest cluster is asked, with one node and with three; no step is more than three times the
one before.

One process runs a rollout ('run'), from a folder that holds its journal. It may be killed at any instant, and another 'run'
goes on where it was; when it is gone, nothing moves. The other verbs read and write files in the same folder, and need neither
the process nor its clusters.`,
		Example: `  seakeep rollout run -f telemetry.yaml --fleet fleet.yaml --dry-run   # the plan; writes nothing
  seakeep rollout run -f telemetry.yaml --fleet fleet.yaml
  seakeep rollout watch
  seakeep rollout approve
  seakeep rollout rollback --reason INC-42`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError(errors.New("rollout needs an action: run, status, watch, pause, resume, approve, abort, rollback, history or controller"), rolloutHint)
		},
	}
	cmd.AddCommand(newRolloutRun(env), newRolloutStatus(env), newRolloutWatch(env), newRolloutHistory(env), newRolloutController(env))
	for _, o := range []rolloutOrder{
		{journal.Pause, "Let nothing move until it is resumed; what runs, runs on", "  seakeep rollout pause\n  seakeep rollout pause telemetry-20261126-211500-1a2b3c --reason 'freeze for the weekend'"},
		{journal.Resume, "Go on with a paused run: what it was paused for is accepted, or found again", "  seakeep rollout resume"},
		{journal.Approve, "Approve a task that waits for a human", "  seakeep rollout approve\n  seakeep rollout approve --task production/before/0"},
		{journal.Abort, "End a run and leave everything as it is", "  seakeep rollout abort --reason 'another change comes first'"},
		{journal.Rollback, "Take the change back on every cluster, with budgeted deletes", "  seakeep rollout rollback --reason INC-42"},
	} {
		cmd.AddCommand(newRolloutOrder(env, o))
	}
	return cmd
}

// rolloutState is which run of which folder a verb is about.
type rolloutState struct {
	dir string
}

func (s *rolloutState) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.dir, "state-dir", defaultRolloutState, "`folder` with the journal of runs")
	_ = cmd.MarkFlagDirname("state-dir")
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		runs, err := journal.Views(s.dir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return runs, cobra.ShellCompDirectiveNoFileComp
	}
}

// views reads every run, the newest last.
func (s *rolloutState) views() ([]engine.View, error) {
	names, err := journal.Views(s.dir)
	if err != nil {
		return nil, err
	}
	var views []engine.View
	for _, name := range names {
		var v engine.View
		if err := journal.ReadView(s.dir, name, &v); err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	slices.SortFunc(views, func(a, b engine.View) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID)) })
	return views, nil
}

// view is the run that is named, by its id or its rollout's name; else the newest.
func (s *rolloutState) view(args []string) (*engine.View, error) {
	views, err := s.views()
	if err != nil {
		return nil, err
	}
	for i := len(views) - 1; i >= 0; i-- {
		if len(args) == 0 || views[i].ID == args[0] || views[i].Name == args[0] {
			return &views[i], nil
		}
	}
	if len(args) > 0 {
		return nil, usageError(fmt.Errorf("there is no run %q in %s", args[0], s.dir), "'seakeep rollout history' lists them; --state-dir names another folder")
	}
	return nil, usageError(fmt.Errorf("there is no run in %s", s.dir), "'seakeep rollout run -f FILE' begins one; --state-dir names another folder")
}

// rolloutOrder is a verb that lays an order down.
type rolloutOrder struct {
	verb    journal.Verb
	short   string
	example string
}

func newRolloutOrder(env *Env, o rolloutOrder) *cobra.Command {
	var state rolloutState
	var task, why string
	cmd := &cobra.Command{
		Use:   string(o.verb) + " [RUN]",
		Short: o.short,
		Long: o.short + `.

RUN is a run's id or its rollout's name; default the newest run. The order is written to the state folder: the process that
carries the run out takes it within seconds, and when none runs, the next one does.`,
		Example: o.example,
		Args:    usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := state.view(args)
			if err != nil {
				return err
			}
			if v.Phase.Over() && !(o.verb == journal.Rollback && v.Phase == journal.Completed) {
				return usageError(fmt.Errorf("run %s is over: %s", v.ID, v.Phase), "")
			}
			order := journal.Order{Run: v.ID, Verb: o.verb, Task: task, By: whoAmI(), Why: why, At: time.Now()}
			if err := journal.Give(state.dir, order); err != nil {
				return err
			}
			fmt.Fprintf(env.Stdout, "%s: %s\n", v.ID, o.verb)
			if !carried(v, time.Now()) {
				fmt.Fprintf(env.Stderr, "hint: no process carries this run out now; 'seakeep rollout run --continue %s' with its files does\n", v.ID)
			}
			return nil
		},
	}
	state.flags(cmd)
	cmd.Flags().StringVar(&why, "reason", "", "why, for the record")
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions)
	if o.verb == journal.Approve {
		cmd.Flags().StringVar(&task, "task", "", "approve this `task` only, as STAGE/before/0 (default: all that wait)")
		_ = cmd.RegisterFlagCompletionFunc("task", cobra.NoFileCompletions)
	}
	return cmd
}

// carried is true when a process carries the run out: it writes the view every few seconds.
func carried(v *engine.View, now time.Time) bool { return now.Sub(v.Written) < 30*time.Second }

// whoAmI names who gives an order, for the record.
func whoAmI() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
