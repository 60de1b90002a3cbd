package run

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
)

// Part is a benchmark: make bench-<name>.
type Part struct {
	Name string
	// Subject is the contender that the values are of.
	Subject string
	// Baselines are installed when they are missing; Hint says what for, should that be impossible.
	Baselines []baseline.Program
	Hint      string
}

// Say tells whoever waits what is going on.
type Say func(format string, a ...any)

// Rig is what is measured and what measures it, up and running.
type Rig interface {
	// Setup says how it is measured, a sentence each.
	Setup(context.Context) []string
	// Measure fills in the report's cases and profiles.
	Measure(context.Context, *result.Report) error
	// Close ends every process of the rig.
	Close()
}

// Start brings a rig up, with a scratch folder of its own.
type Start func(ctx context.Context, dir string, say Say) (Rig, error)

// Prepare reads the arguments.
type Prepare func(args []string, getenv func(string) string, stderr io.Writer) (Options, Start, error)

// Main runs a benchmark with the process's arguments and ends the process with 2 for a wrong flag and 1 for all else
// that fails. A missed target is a result, not a failure.
func Main(p Part, prepare Prepare) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := p.run(ctx, os.Args[1:], prepare, os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		if errors.Is(err, baseline.ErrMissing) {
			fmt.Fprintln(os.Stderr, "hint:", p.Hint)
		}
		os.Exit(1)
	}
}

func (p Part) run(ctx context.Context, args []string, prepare Prepare, getenv func(string) string, stdout, stderr io.Writer) error {
	o, start, err := prepare(args, getenv, stderr)
	if err != nil {
		return err
	}
	if err := baseline.Install(ctx, stderr, p.Baselines...); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "seakeep-bench-"+p.Name+"-")
	if err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	say := func(format string, a ...any) {
		fmt.Fprintf(stderr, "bench-"+p.Name+": "+format+"\n", a...)
	}
	began := time.Now()
	rig, err := start(ctx, dir, say)
	if err != nil {
		return err
	}
	defer rig.Close()
	report := &result.Report{
		Part: p.Name, As: o.As, Subject: p.Subject, Machine: machine.Describe(), Taken: time.Now().UTC(), Version: o.Version, Setup: rig.Setup(ctx),
	}
	if err := rig.Measure(ctx, report); err != nil {
		return err
	}
	if err := report.Table(stdout); err != nil {
		return err
	}
	file, err := report.Write(o.Out)
	if err != nil {
		return err
	}
	say("%d numbers, %d targets missed, in %s; report in %s", len(report.Cases), len(report.Missed()), time.Since(began).Round(time.Second), file)
	return nil
}
