package cli

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
)

// rolloutShow are the flags of the verbs that show.
type rolloutShow struct {
	state  rolloutState
	output string
	every  time.Duration
}

func (s *rolloutShow) flags(cmd *cobra.Command) {
	s.state.flags(cmd)
	cmd.Flags().StringVarP(&s.output, "output", "o", "table", "table | json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (s *rolloutShow) check() error {
	if s.output != "table" && s.output != "json" {
		return usageError(fmt.Errorf("output must be table or json, got %q", s.output), rolloutHint)
	}
	return nil
}

func newRolloutStatus(env *Env) *cobra.Command {
	var s rolloutShow
	cmd := &cobra.Command{
		Use:   "status [RUN]",
		Short: "Show how far a run is: stages, steps, exposure, verdicts, the bake's clock",
		Example: `  seakeep rollout status
  seakeep rollout status telemetry -o json`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := s.check(); err != nil {
				return err
			}
			v, err := s.state.view(args)
			if err != nil {
				return err
			}
			if s.output == "json" {
				return writeJSON(env.Stdout, v, true)
			}
			return writeRollout(env.Stdout, v, time.Now())
		},
	}
	s.flags(cmd)
	return cmd
}

func newRolloutWatch(env *Env) *cobra.Command {
	var s rolloutShow
	cmd := &cobra.Command{
		Use:   "watch [RUN]",
		Short: "Show how far a run is, again and again until it is over",
		Example: `  seakeep rollout watch
  seakeep rollout watch telemetry -o json     # one JSON object a line`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.check(); err != nil {
				return err
			}
			if s.every < 200*time.Millisecond || s.every > time.Minute {
				return usageError(fmt.Errorf("--every must be 200ms to 1m, got %v", s.every), rolloutHint)
			}
			return watchRollout(cmd.Context(), env, &s, args)
		},
	}
	s.flags(cmd)
	cmd.Flags().DurationVar(&s.every, "every", time.Second, "how often")
	_ = cmd.RegisterFlagCompletionFunc("every", cobra.NoFileCompletions)
	return cmd
}

func watchRollout(ctx context.Context, env *Env, s *rolloutShow, args []string) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		v, err := s.state.view(args)
		if err != nil {
			return err
		}
		var page bytes.Buffer
		if s.output == "json" {
			err = writeJSON(&page, v, false)
		} else {
			page.WriteString("\x1b[H\x1b[2J") // home, clear: as watch(1)
			err = writeRollout(&page, v, time.Now())
		}
		if err != nil {
			return err
		}
		if _, err := page.WriteTo(env.Stdout); err != nil {
			return err
		}
		if v.Phase.Over() {
			if v.Phase != journal.Completed {
				return findings()
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // the user has seen enough
		case <-tick.C:
		}
	}
}

func newRolloutHistory(env *Env) *cobra.Command {
	var s rolloutShow
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the runs of a state folder, the newest first",
		Example: `  seakeep rollout history
  seakeep rollout history -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if err := s.check(); err != nil {
				return err
			}
			views, err := s.state.views()
			if err != nil {
				return err
			}
			slices.Reverse(views)
			if s.output == "json" {
				if views == nil {
					views = []engine.View{}
				}
				return writeJSON(env.Stdout, views, true)
			}
			tab := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(tab, "RUN\tROLLOUT\tSTARTED\tTOOK\tPHASE\tREASON")
			for _, v := range views {
				took := "-"
				if !v.Ended.IsZero() {
					took = v.Ended.Sub(v.Started).Round(time.Second).String()
				}
				fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\t%s\n", v.ID, v.Name, v.Started.UTC().Format(time.RFC3339), took, v.Phase, v.Reason)
			}
			return tab.Flush()
		},
	}
	s.flags(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}
