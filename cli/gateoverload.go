package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit"
)

// newGateOverload is `seakeep gate overload`.
func newGateOverload(env *Env) *cobra.Command {
	var view gateView
	var watch bool
	var period time.Duration
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "Show what the API servers can take, what binds it, and who holds it and waits for it",
		Long: `Shows what a gate with the field 'overload' in its configuration admits: how many seats requests may hold at once as the
control plane allows it now, which signal binds that (processors, memory, etcd, latency, …) and how near the others are, each
API server's part, and for each level its seats, those held and those waited for.

PRESSURE is 1 where a signal makes the limit fall.`,
		Example: `  seakeep gate overload
  seakeep gate overload --watch
  seakeep gate overload -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if period < 100*time.Millisecond {
				return usageError(fmt.Errorf("period must be ≥ 100ms, got %s", period), "see 'seakeep gate overload --help'")
			}
			if watch {
				view.again = period
			}
			return runGateOverload(cmd.Context(), env, &view)
		},
	}
	view.flags(cmd)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show again and again until interrupted")
	cmd.Flags().DurationVar(&period, "period", 2*time.Second, "how often, with --watch")
	_ = cmd.RegisterFlagCompletionFunc("period", cobra.NoFileCompletions)
	return cmd
}

func runGateOverload(ctx context.Context, env *Env, view *gateView) error {
	return viewGate(ctx, env, view, "/v1/overload", func(w io.Writer, s *admit.Status) error {
		if s.Mode == v1alpha1.OverloadDisabled {
			fmt.Fprintln(env.Stderr, "nothing is admitted by cost: the gate's configuration has no field 'overload', or its mode is Disabled")
			return nil
		}
		return writeOverload(w, s)
	})
}

// writeOverload is a status as tables, the limit and what binds it first.
func writeOverload(w io.Writer, s *admit.Status) error {
	state := []string{string(s.Mode)}
	if s.Ramping {
		state = append(state, "coming back")
	}
	bytes := "no bound on LISTs' bytes"
	if s.ListLimitBytes > 0 {
		bytes = byteSize(float64(s.ListLimitBytes)) + " of LISTs"
	}
	fmt.Fprintf(w, "%s  %s: %d seats, %s under way; %s\n", s.Taken.Format(time.TimeOnly), strings.Join(state, ", "), s.LimitSeats, bytes, cmp.Or(s.Reason, "no evidence yet"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nLEVEL\tSEATS\tHELD\tWAITING\tMEAN")
	for _, l := range s.Levels {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\n", l.Name, l.LimitSeats, l.InUse, l.Waiting, time.Duration(l.MeanSeconds*float64(time.Second)).Round(100*time.Microsecond))
	}
	if len(s.Pressures) > 0 {
		fmt.Fprintln(t, "\nSIGNAL\tPRESSURE")
		for _, signal := range slices.SortedFunc(maps.Keys(s.Pressures), func(a, b string) int {
			return cmp.Or(cmp.Compare(s.Pressures[b], s.Pressures[a]), cmp.Compare(a, b))
		}) {
			fmt.Fprintf(t, "%s\t%.2f\n", signal, s.Pressures[signal])
		}
	}
	if len(s.Servers) > 0 {
		fmt.Fprintln(t, "\nAPI SERVER\tSEATS\tLISTS\tSAYS HOW IT IS")
		for _, server := range s.Servers {
			says := "yes"
			if !server.Fresh {
				says = "no: its part may fall and does not rise"
			}
			fmt.Fprintf(t, "%s\t%.0f\t%s\t%s\n", cell(server.Name), server.LimitSeats, byteSize(server.ListLimitBytes), says)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nCosts are known of %d kinds of request", s.Cost.Shapes)
	if s.Cost.Measured > 0 {
		fmt.Fprintf(w, "; of %d predicted and measured the median is off by %.0f %% of the time and %.0f %% of the bytes", s.Cost.Measured, 100*s.Cost.SecondsError, 100*s.Cost.BytesError)
	}
	fmt.Fprintln(w, ".")
	if len(s.Callees) > 0 {
		fmt.Fprintf(w, "API servers call %s: what they ask in turn is of the level callbacks.\n", strings.Join(s.Callees, ", "))
	}
	return nil
}
