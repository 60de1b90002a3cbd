package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/gate/peers"
)

// newGatePeers is `seakeep gate peers`.
func newGatePeers(env *Env) *cobra.Command {
	var socket, output string
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
		RunE: func(cmd *cobra.Command, _ []string) error { return runGatePeers(cmd.Context(), env, socket, output) },
	}
	flags := cmd.Flags()
	flags.StringVar(&socket, "socket", defaultSocket, "the gate's admin socket")
	flags.StringVarP(&output, "output", "o", "table", "table | json")
	_ = cmd.MarkFlagFilename("socket")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runGatePeers(ctx context.Context, env *Env, socket, output string) error {
	if output != "table" && output != "json" {
		return usageError(fmt.Errorf("output must be table or json, got %q", output), "see 'seakeep gate peers --help'")
	}
	client := socketClient(socket)
	defer client.CloseIdleConnections()
	status, err := fetchPeers(ctx, client)
	if err != nil {
		return withHint(fmt.Errorf("asking the gate at %s: %w", socket, err),
			"is the gate running on this host, and are you the user it runs as? --socket names another one")
	}
	switch {
	case output == "json":
		err = writeJSON(env.Stdout, status, true)
	case !status.Enabled:
		fmt.Fprintln(env.Stderr, "this gate is alone: its configuration has no field 'peers'")
	default:
		err = writePeers(env.Stdout, status)
	}
	if err == nil && len(status.Problems) > 0 {
		return findings()
	}
	return err
}

func fetchPeers(ctx context.Context, client *http.Client) (*peers.Status, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate/v1/peers", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %s: %.200s", response.Status, body)
	}
	var status peers.Status
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("reading its answer: %w", err)
	}
	return &status, nil
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
