package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/recorded"
	"github.com/seakeep/seakeep/internal/config"
)

// newGateReplayAudit is `seakeep gate replay-audit`.
func newGateReplayAudit(env *Env) *cobra.Command {
	var file, output string
	var n int
	cmd := &cobra.Command{
		Use:   "replay-audit FILE… --config FILE",
		Short: "Show from a recorded audit log whom the limits of a configuration would have turned away",
		Long: `Feeds the requests of an API server's audit log (JSON lines, gzip or not, "-" for standard input) through the limits of a
gate's configuration, the shipped ones included, with the log's clock, and says by rule and by client how many would have been
turned away, and when first and last. Nothing needs to be installed; nobody is turned away. Logs of several API servers, and
rotated ones, are given together and read in the order of their time.

A log does not say how large answers were, so bounds on bytes are not judged; nor does it show how clients that are turned away
come back. The default API budget is judged, with clamp.nodes for the number of nodes; declared budgets are not.`,
		Example: `  seakeep gate replay-audit /var/log/kubernetes/audit.log --config gate.yaml
  seakeep gate replay-audit audit-*.log.gz --config gate.yaml -o json`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			const hint = "see 'seakeep gate replay-audit --help'"
			switch {
			case file == "":
				return usageError(errors.New("--config is required"), hint)
			case output != "table" && output != "json":
				return usageError(fmt.Errorf("output must be table or json, got %q", output), hint)
			case n < 0:
				return usageError(fmt.Errorf("limit must be ≥ 0, got %d", n), hint)
			}
			return replayAudit(cmd.Context(), env, file, files, output, n)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", "", "`file` with a GateConfiguration")
	flags.StringVarP(&output, "output", "o", "table", "table | json")
	flags.IntVarP(&n, "limit", "n", 20, "clients to show, 0 for all")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.RegisterFlagCompletionFunc("limit", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func replayAudit(ctx context.Context, env *Env, file string, files []string, output string, n int) error {
	cfg, _, err := config.LoadKind[*v1alpha1.GateConfiguration](file, env.Stdin)
	if err != nil {
		return usageError(err, "check the file with 'seakeep config check "+file+"'")
	}
	var sources []recorded.Source
	for _, name := range files {
		if name == "-" {
			sources = append(sources, recorded.Source{Name: "<stdin>", Reader: contextReader{ctx, env.Stdin}})
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return usageError(fmt.Errorf("reading audit log: %w", err), "")
		}
		defer f.Close()
		sources = append(sources, recorded.Source{Name: name, Reader: contextReader{ctx, f}})
	}
	report, err := recorded.Judge(recorded.Options{Config: cfg, Progress: func(name string, bytes, lines int64) {
		fmt.Fprintf(env.Stderr, "reading %s: %d MiB, %d lines\n", name, bytes>>20, lines)
	}}, sources)
	if err != nil {
		return err
	}
	warnRecorded(env.Stderr, report)
	if report.Judged == 0 {
		return withHint(errors.New("the audit log holds no request to judge"),
			"the file must be the API server's --audit-log-path in JSON, written with a policy that keeps the stage ResponseComplete")
	}
	if output == "json" {
		return writeJSON(env.Stdout, report, true)
	}
	return writeRecorded(env.Stdout, report, n)
}

func warnRecorded(w io.Writer, r *recorded.Report) {
	if r.Malformed+r.TooLong > 0 {
		fmt.Fprintf(w, "warning: passed over %d malformed and %d too long lines of %d; first: %s\n", r.Malformed, r.TooLong, r.Lines, printable(r.FirstMalformed))
	}
	if r.Late > 0 {
		fmt.Fprintf(w, "warning: %d requests stand so late in the log that they were judged out of their turn\n", r.Late)
	}
	for _, name := range r.Truncated {
		fmt.Fprintf(w, "warning: %s ends in the middle of its compression\n", name)
	}
}

func writeRecorded(w io.Writer, r *recorded.Report, n int) error {
	fmt.Fprintf(w, "%d requests over %s; %d (%s) would have been turned away\n",
		r.Judged, r.Last.Sub(r.First).Round(time.Second), r.Rejected, share(float64(r.Rejected), float64(r.Judged)))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nREJECTED\tMATCHED\tSHARE\tRULE")
	for _, rule := range r.Rules {
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\n", rule.Rejected, rule.Matched, share(float64(rule.Rejected), float64(rule.Matched)), rule.Rule)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Clients) > 0 {
		if err := writeShadowed(w, r.Clients, n); err != nil {
			return err
		}
	}
	if len(r.Unjudged) > 0 {
		fmt.Fprintf(w, "\nNot judged, because a log does not say: %s\n", strings.Join(r.Unjudged, ", "))
	}
	return nil
}
