package watchdog

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/telemetry"
)

const usage = `Examples:
  seakeep-dns watchdog --config /etc/seakeep/dns-watchdog.yaml
  seakeep-dns watchdog --config - < dns-watchdog.yaml

Flags:
  --config FILE   file of kind DNSWatchdog, - for standard input
  --check         read the file, say what is wrong with it, and end
`

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// Is says whether the arguments are this sub-command, and not CoreDNS's flags.
func Is(args []string) bool { return len(args) > 0 && args[0] == "watchdog" }

// Main runs the sub-command until ctx ends, and returns the exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("seakeep-dns watchdog", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	file := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	err := flags.Parse(args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("%q is not expected", flags.Arg(0))
	case err == nil && *file == "":
		err = errors.New("--config must name a file of kind DNSWatchdog")
	}
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\nhint: see seakeep-dns watchdog --help\n", err)
		return exitUsage
	}
	c, _, err := config.LoadKind[*v1alpha1.DNSWatchdog](*file, stdin)
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\nhint: 'seakeep config schema DNSWatchdog' describes the file\n", err)
		return exitUsage
	}
	if *check {
		return exitOK
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w := New(Options{Config: c, Registerer: registry, Gatherer: registry, Log: telemetry.NewLogger(stderr, slog.LevelInfo)})
	if err := w.Run(ctx); err != nil {
		fmt.Fprintf(stderr, "error: %v\nhint: nftables needs CAP_NET_ADMIN, and the listener a free address\n", err)
		return exitFailure
	}
	return exitOK
}
