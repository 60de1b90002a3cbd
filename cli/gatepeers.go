package cli

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/gate/peers"
)

// newGatePeers is `seakeep gate peers`.
func newGatePeers(env *Env) *cobra.Command {
	var view gateView
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "Show the other gates: who is reachable, each one's share of the budgets, clocks, and what does not work",
		Long: `Shows what a gate with the field 'peers' in its configuration knows of the others. Emergency rules are in force on all that
are reachable. SHARE is the part of every throttle's budget that a gate hands out; one that is away keeps its part until
peers.forgetAfter. CLOCK is how far the other's clock is ahead: emergency rules end by each gate's own.

Exits with 3 when something does not work.`,
		Example: `  seakeep gate peers
  seakeep gate peers -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runGatePeers(cmd.Context(), env, &view) },
	}
	view.flags(cmd)
	return cmd
}

func runGatePeers(ctx context.Context, env *Env, view *gateView) error {
	var status peers.Status
	err := view.fetch(ctx, "/v1/peers", &status)
	switch {
	case err != nil:
		return err
	case view.output == "json":
		err = writeJSON(env.Stdout, &status, true)
	case !status.Enabled:
		fmt.Fprintln(env.Stderr, "this gate is alone: its configuration has no field 'peers'")
	default:
		err = writePeers(env.Stdout, &status)
	}
	if err == nil && len(status.Problems) > 0 {
		return findings()
	}
	return err
}

func writePeers(w io.Writer, s *peers.Status) error {
	where, agreed := s.Address, "agreed"
	if !s.Open {
		where = "not open to others"
	}
	if !s.Agreed {
		agreed = "not agreed yet"
	}
	fmt.Fprintf(w, "%s  %s (%s): budgets %s, share %.1f%% (%s); %d rules and %d lifts shared\n\n", s.Taken.Format(time.TimeOnly), s.Name, where,
		s.Budgets, 100*s.Share, agreed, s.Rules, s.Lifts)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GATE\tADDRESS\tSTATE\tAWAY\tSHARE\tCLOCK")
	for i := range s.Gates {
		g := &s.Gates[i]
		away, share, clock := "-", "-", "-"
		if g.State == peers.Away {
			away = age(&g.AwaySeconds)
		}
		if g.Share != nil {
			share = fmt.Sprintf("%.1f%%", 100**g.Share)
		}
		if g.ClockOffsetSeconds != nil {
			clock = fmt.Sprintf("%+.1fs", *g.ClockOffsetSeconds)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", cell(g.Name), cell(g.Address), g.State, away, share, clock)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, problem := range s.Problems {
		fmt.Fprintf(w, "\nproblem: %s\n", cell(problem))
	}
	return nil
}
