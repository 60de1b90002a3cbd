package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/gate/clamp"
	"github.com/seakeep/seakeep/gate/ledger"
)

// defaultSocket is where a gate's admin endpoint is, unless its configuration says otherwise.
const defaultSocket = "/run/seakeep/gate.sock"

// topOptions are the flags of `gate top`.
type topOptions struct {
	socket string
	n      int
	sort   string
	output string
	watch  bool
	period time.Duration
	audit  []string
	by     string
}

// newGateTop is `seakeep gate top`.
func newGateTop(env *Env) *cobra.Command {
	var o topOptions
	cmd := &cobra.Command{
		Use:   "top [--audit FILE…]",
		Short: "Show which client costs what: live from a gate, or from a cluster's audit log",
		Long: `A client is user × user agent × verb × resource; cost is in seat-seconds, what a request occupies at the API server.
Live numbers are averages of the last minute. Memory is bounded; what each line may have missed is stated.

With --audit nothing needs to be installed: the API server's audit log (JSON lines, gzip or not, "-" for standard
input) is ranked. Only ResponseComplete events count, watches stand apart, and the cost is the time each request took.`,
		Example: `  seakeep gate top
  seakeep gate top --sort bytes --watch
  seakeep gate top --audit /var/log/kubernetes/audit.log --by useragent`,
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runTop(cmd.Context(), env, &o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.socket, "socket", defaultSocket, "the gate's admin socket")
	flags.IntVarP(&o.n, "limit", "n", 20, "lines to show, 0 for all")
	flags.StringVar(&o.sort, "sort", string(ledger.BySeats), "seats | requests | bytes | rejected")
	flags.StringVarP(&o.output, "output", "o", "table", "table | json")
	flags.BoolVarP(&o.watch, "watch", "w", false, "show again and again until interrupted")
	flags.DurationVar(&o.period, "period", 2*time.Second, "how often, with --watch")
	flags.StringArrayVar(&o.audit, "audit", nil, "rank an audit log instead; may be repeated, further files may follow as arguments")
	flags.StringVar(&o.by, "by", string(ledger.ByClient), "with --audit: client | user | useragent | verb | resource")
	return cmd
}

func runTop(ctx context.Context, env *Env, o *topOptions, args []string) error {
	const hint = "see 'seakeep gate top --help'"
	order, err := ledger.ParseOrder(o.sort)
	if err != nil {
		return usageError(fmt.Errorf("reading --sort: %w", err), hint)
	}
	by, err := ledger.ParseDimension(o.by)
	if err != nil {
		return usageError(fmt.Errorf("reading --by: %w", err), hint)
	}
	switch {
	case o.output != "table" && o.output != "json":
		return usageError(fmt.Errorf("output must be table or json, got %q", o.output), hint)
	case o.n < 0:
		return usageError(fmt.Errorf("limit must be ≥ 0, got %d", o.n), hint)
	case o.period < 100*time.Millisecond:
		return usageError(fmt.Errorf("period must be ≥ 100ms, got %s", o.period), hint)
	case len(o.audit) == 0 && len(args) > 0:
		return usageError(fmt.Errorf("top takes no argument without --audit, got %q", args[0]), hint)
	case len(o.audit) == 0 && by != ledger.ByClient:
		return usageError(errors.New("--by needs --audit: a gate ranks whole clients"), hint)
	case len(o.audit) > 0 && o.watch:
		return usageError(errors.New("--watch shows a gate, --audit a file: use one of them"), hint)
	case len(o.audit) > 0:
		return topOfAudit(ctx, env, o, append(o.audit, args...), by, order)
	}
	return topOfGate(ctx, env, o, order)
}

func topOfGate(ctx context.Context, env *Env, o *topOptions, order ledger.Order) error {
	path := "/v1/top?" + url.Values{"n": {strconv.Itoa(o.n)}, "by": {string(order)}}.Encode()
	view := &gateView{socket: o.socket, output: o.output}
	if o.watch {
		view.again = o.period
	}
	return viewGate(ctx, env, view, path, func(w io.Writer, snap *ledger.Snapshot) error {
		client := socketClient(o.socket)
		defer client.CloseIdleConnections()
		return errors.Join(writeTop(w, snap), writeGrowing(ctx, w, client))
	})
}

// writeGrowing names those whose cost grows with their nodes: who looks at a ranking should not have to know of another verb.
func writeGrowing(ctx context.Context, w io.Writer, client *http.Client) error {
	var status clamp.Status
	if err := fetchJSON(ctx, client, "/v1/clamp", &status); err != nil {
		return nil //nolint:nilerr // an older gate; the ranking stands without it
	}
	for i := range status.Suspects {
		s := &status.Suspects[i]
		state := "named"
		if s.Rule != "" {
			state = "rule " + s.Rule
		}
		if _, err := fmt.Fprintf(w, "\ngrowing with its nodes: %s, %.1f seats from %d of %d, %.1f on all of them; %s; see 'seakeep gate clamp'\n",
			clipped(s.User), s.Seats, s.Sources, s.Nodes, s.Forecast, state); err != nil {
			return err
		}
	}
	return nil
}

func topOfAudit(ctx context.Context, env *Env, o *topOptions, files []string, by ledger.Dimension, order ledger.Order) error {
	if order == ledger.ByBytes {
		return usageError(errors.New("an audit log does not say how many bytes an answer had: sort by seats, requests or rejected"), "")
	}
	audit := ledger.NewAudit(ledger.AuditOptions{By: by, Progress: func(name string, bytes, events int64) {
		fmt.Fprintf(env.Stderr, "reading %s: %d MiB, %d lines\n", name, bytes>>20, events)
	}})
	for _, file := range files {
		if err := readAudit(ctx, env, audit, file); err != nil {
			return err
		}
	}
	report := audit.Report(o.n, order)
	if report.Malformed+report.TooLong > 0 {
		fmt.Fprintf(env.Stderr, "warning: passed over %d malformed and %d too long lines of %d; first: %s\n",
			report.Malformed, report.TooLong, report.Lines, report.FirstMalformed)
	}
	for _, name := range report.Truncated {
		fmt.Fprintf(env.Stderr, "warning: %s ends in the middle of its compression\n", name)
	}
	if report.Counted == 0 {
		return withHint(errors.New("the audit log holds no ResponseComplete event"),
			"the file must be the API server's --audit-log-path in JSON, written with a policy that keeps that stage")
	}
	if o.output == "json" {
		return writeJSON(env.Stdout, report, true)
	}
	return writeAudit(env.Stdout, &report)
}

func readAudit(ctx context.Context, env *Env, audit *ledger.Audit, file string) error {
	if file == "-" {
		return audit.Read("<stdin>", contextReader{ctx, env.Stdin})
	}
	f, err := os.Open(file)
	if err != nil {
		return usageError(fmt.Errorf("reading audit log: %w", err), "")
	}
	defer f.Close()
	return audit.Read(file, contextReader{ctx, f})
}

// contextReader ends reading when the user interrupts.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func writeJSON(w io.Writer, v any, indent bool) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if indent {
		encoder.SetIndent("", "  ")
	}
	return encoder.Encode(v)
}
