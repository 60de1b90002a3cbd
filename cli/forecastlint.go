package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/forecast/lint"
	"github.com/seakeep/seakeep/rollout/plan"
)

const forecastLintHint = "see 'seakeep forecast lint --help'"

// lintReport is the output of forecast lint.
type lintReport struct {
	Objects int         `json:"objects"`
	Risks   []lint.Risk `json:"risks"`
}

// newForecastLint is `seakeep forecast lint`.
func newForecastLint(env *Env) *cobra.Command {
	var files []string
	var output string
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Name what would make a manifest's cost grow with the cluster, before it runs",
		Long: `Reads DaemonSets with their RBAC and ConfigMaps, and names what is known to make what they cost the API server grow with the
cluster: rights to LIST and watch everything from every node, settings of known agents (OpenTelemetry collector, Prometheus and
Promtail, Fluent Bit, Vector, Beats, Datadog, kube-state-metrics) that read more than their own node, LISTs that name no
resourceVersion, short periods, starts all at once, agents that may write what they watch.

Give all files together: rights are found by following bindings. Nothing is asked of a cluster. What is found are risks; what a
component costs, 'seakeep forecast' measures. Exit code 3 when there is a High or Medium one.`,
		Example: `  seakeep forecast lint -f agent.yaml
  helm template telemetry ./chart | seakeep forecast lint -f - -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runForecastLint(cmd.Context(), env, files, output) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&files, "filename", "f", nil, "manifest, YAML or JSON; may be repeated, - is standard input")
	flags.StringVarP(&output, "output", "o", "table", "table | json")
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runForecastLint(ctx context.Context, env *Env, files []string, output string) error {
	switch {
	case len(files) == 0:
		return usageError(errors.New("lint needs -f FILE, or -f - for standard input"), forecastLintHint)
	case output != "table" && output != "json":
		return usageError(fmt.Errorf("output must be table or json, got %q", output), forecastLintHint)
	}
	// All as one stream: rights are in one file as often as in another.
	var readers []io.Reader
	for _, name := range files {
		var r io.Reader = contextReader{ctx, env.Stdin}
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return usageError(fmt.Errorf("reading manifest: %w", err), "")
			}
			defer f.Close()
			r = f
		}
		readers = append(readers, r, newDocument())
	}
	m, err := lint.Parse(io.MultiReader(readers...))
	if err != nil {
		return usageError(err, "the files together must be Kubernetes manifests")
	}
	report := lintReport{Objects: m.Objects, Risks: append([]lint.Risk{}, m.Lint()...)}
	if output == "json" {
		err = writeJSON(env.Stdout, report, true)
	} else {
		err = report.write(env.Stdout)
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(report.Risks, func(r lint.Risk) bool { return r.Severity != lint.Low }) {
		return findings()
	}
	return nil
}

func (r *lintReport) write(w io.Writer) error {
	if err := writeRisks(w, planned(r.Risks)); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d risks in %d objects\n", len(r.Risks), r.Objects)
	return err
}

// writeRisks writes a paragraph for each, with an empty line after it.
func writeRisks(w io.Writer, risks []plan.Risk) error {
	for _, risk := range risks {
		if _, err := fmt.Fprintf(w, "%s %s: %s\n  at   %s\n  why  %s\n  do   %s\n\n", risk.Severity, risk.Name, clipped(risk.Object), risk.Field, risk.Why, risk.Remedy); err != nil {
			return err
		}
	}
	return nil
}

// newDocument stands between two files.
func newDocument() io.Reader { return strings.NewReader("\n---\n") }
