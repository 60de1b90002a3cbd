// Package cli is the command line: one file per verb, and the only place where errors become exit codes and hints.
// It joins the parts; the parts do not know each other.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/internal/telemetry"
)

// Exit codes, the same for every verb.
const (
	ExitOK        = 0   // done
	ExitFailure   = 1   // it was tried and did not work
	ExitUsage     = 2   // the command line or a file is wrong; nothing was tried
	ExitFindings  = 3   // it worked, and what it found is bad: a failed check, a failed hypothesis
	ExitInterrupt = 130 // the user ended it
)

// Env is everything a verb may use of the operating system, so that tests can run verbs in process.
type Env struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string

	logLevel slog.Level
}

// Log returns the process's logger, on Stderr.
func (e *Env) Log() *slog.Logger { return telemetry.NewLogger(e.Stderr, e.logLevel) }

// Main runs one command line and returns its exit code. It ends on SIGINT and SIGTERM through the context.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := &Env{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	return Run(ctx, env)
}

// Run runs one command line in the given environment and returns its exit code.
func Run(ctx context.Context, env *Env) int {
	root := newRoot(env)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := ExitFailure
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		code = exit.code
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		code = ExitInterrupt
	}
	if err.Error() != "" {
		fmt.Fprintf(env.Stderr, "error: %v\n", err)
	}
	if exit != nil && exit.hint != "" {
		fmt.Fprintf(env.Stderr, "hint: %s\n", exit.hint)
	}
	return code
}

// exitError carries an exit code and a hint to Run. Only this package makes them.
type exitError struct {
	code int
	hint string
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError says the command line or a file is wrong and nothing was tried.
func usageError(err error, hint string) error {
	return &exitError{code: ExitUsage, hint: hint, err: err}
}

// withHint adds what to do about an error.
func withHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &exitError{code: ExitFailure, hint: hint, err: err}
}

// findings says the command worked and what it found is bad; the findings are already on Stdout.
func findings() error { return &exitError{code: ExitFindings} }

func newRoot(env *Env) *cobra.Command {
	var verbose bool
	root := &cobra.Command{
		Use:   "seakeep",
		Short: "Keep Kubernetes serving, steerable and recoverable when its control plane is overloaded or gone",
		Example: `  seakeep lab replay openai-2024-12-11 --layers none --layers gate
  seakeep gate --config gate.yaml
  seakeep emergency status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		PersistentPreRun: func(*cobra.Command, []string) {
			if verbose {
				env.logLevel = slog.LevelDebug
			}
			telemetry.Bridge(env.Log())
		},
	}
	root.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "log how, not only what")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(err, "see '"+cmd.CommandPath()+" --help'")
	})
	root.AddCommand(verbs(env)...)
	return root
}

// verbs is the one list of what seakeep can do, in the order help shows it.
func verbs(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newPreflight(env),
		newGate(env),
		newConfig(env),
		newBreakGlass(env),
		newEmergency(env),
		newForecast(env),
		newLab(env),
		newDrillCommand(env),
		newRollout(env),
		newVersion(env),
		newDocs(env),
	}
}
