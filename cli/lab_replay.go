package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/cli/replay"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/report"
	"github.com/seakeep/seakeep/drill/scenarios"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

// replayFlags are shared by `lab replay` and `drill run`.
type replayFlags struct {
	layers      []string
	nodes, pods int
	factor      float64
	seed        uint64
	out, binDir string
	output      string
	bounds      []string
	yes         bool
	noRehearsal bool
}

func newLabReplayCommand(env *Env) *cobra.Command {
	flags := &replayFlags{}
	cmd := &cobra.Command{
		Use:   "replay SCENARIO",
		Short: "Replay an incident on a real control plane, without and with Seakeep, and compare",
		Long: `Replay runs a scenario once for each --layers, each time from the same cluster, and writes one report: a table here,
report.html, report.json and before-after.svg in the folder --out. Layers are none, gate, gate-unlimited (the gate
with every limit off), relay (the same, sharing the reads of pods between clients), overload (the same, admitting requests
by what the control plane can take), clamp (the same, clamping whose cost grows with its nodes), rollout (no gate, the change
is stepped over the nodes and judged at each step), rollout-small (the same with the change's cost made small: it takes 15
minutes and gets everywhere) and dns (cluster DNS whose data outlives its restarts); a comma joins layers.

The exit code is 3 when a hypothesis of the scenario failed or could not be judged.`,
		Example: `  seakeep lab replay openai-2024-12-11 --layers none --layers gate
  seakeep lab replay openai-2024-12-11 --layers none --layers dns --layers gate,dns
  seakeep lab replay openai-2024-12-11 --layers none --layers relay --layers overload
  seakeep lab replay openai-2024-12-11 --layers rollout
  seakeep lab replay openai-2024-12-11 --layers none --nodes 50 --pods 1000
  seakeep lab replay my-scenario.yaml --layers gate --out out/mine`,
		Args:              oneScenario,
		ValidArgsFunction: completeScenarios,
		RunE:              func(cmd *cobra.Command, args []string) error { return runReplay(cmd.Context(), env, args[0], flags) },
	}
	flags.register(cmd)
	return cmd
}

func (f *replayFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.layers, "layers", []string{replay.None}, "what stands in front of the API server; once for each run")
	flags.IntVar(&f.nodes, "nodes", 0, "nodes of the cluster (default: the scenario's)")
	flags.IntVar(&f.pods, "pods", -1, "pods of the cluster (default: the scenario's, or 20 a node with --nodes)")
	flags.Float64Var(&f.factor, "factor", 0, "divides incident time (default: the scenario's)")
	flags.Uint64Var(&f.seed, "seed", 0, "makes what is random repeatable (default: the scenario's)")
	flags.StringVar(&f.out, "out", "out/replay", "`folder` for the report")
	flags.StringVar(&f.binDir, "bin-dir", "", "`folder` with the control plane's binaries (default: $KUBEBUILDER_ASSETS, then bin/)")
	flags.StringVarP(&f.output, "output", "o", "table", "table or json, on standard output")
	flags.StringArrayVar(&f.bounds, "bound", nil, "bound a component, as `kind=CPU,memory`: kube-apiserver=1.5,2Gi")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask before starting")
	flags.BoolVar(&f.noRehearsal, "no-rehearsal", false, "leave the staging cluster out")
}

func oneScenario(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError(fmt.Errorf("one scenario must be named, got %d", len(args)), "'seakeep drill list' shows those that ship with Seakeep")
	}
	return nil
}

func completeScenarios(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return scenarios.Names(), cobra.ShellCompDirectiveDefault
}

func runReplay(ctx context.Context, env *Env, name string, flags *replayFlags) error {
	options, err := flags.options(env, name)
	if err != nil {
		return err
	}
	if flags.output != "table" && flags.output != "json" {
		return usageError(fmt.Errorf("--output must be table or json, got %q", flags.output), "")
	}
	fmt.Fprint(env.Stderr, estimate(options))
	if !flags.yes && isTerminal(env.Stdin) && !agrees(env) {
		return usageError(errors.New("not started"), "")
	}
	if err := os.MkdirAll(flags.out, 0o755); err != nil {
		return withHint(fmt.Errorf("making the report's folder: %w", err), "choose another with --out")
	}
	if options.Work, err = os.MkdirTemp("", "seakeep-replay-"); err != nil {
		return withHint(fmt.Errorf("making a folder for the lab: %w", err), "set TMPDIR to a folder with 5 GB free")
	}
	r, err := replay.Run(ctx, *options)
	if err != nil {
		if errors.Is(err, lab.ErrNoBinaries) {
			return usageError(err, "run 'make control-plane', or name their folder with --bin-dir")
		}
		return withHint(err, "the lab's logs are in "+options.Work)
	}
	if err := writeReport(r, flags.out); err != nil {
		return withHint(err, "choose another folder with --out")
	}
	if err := showReport(env, r, flags); err != nil {
		return err
	}
	if r.Verdict != drill.Pass {
		return findings()
	}
	return nil
}

// options reads the scenario and lays the flags over it.
func (f *replayFlags) options(env *Env, name string) (*replay.Options, error) {
	d, err := loadScenario(env, name)
	if err != nil {
		return nil, err
	}
	o := &replay.Options{Scenario: d, BinDir: f.binDir, Bounds: map[string]lab.Bounds{}, Log: env.Log()}
	scenarioPods := *d.Parameters.Pods
	if f.nodes != 0 {
		d.Parameters.Nodes = f.nodes
		d.Parameters.Pods = new(v1alpha1.DefaultPodsPerNode * f.nodes)
	}
	if f.pods >= 0 {
		d.Parameters.Pods = new(f.pods)
	}
	// A larger cluster needs a larger control plane to stand at all.
	if pods := *d.Parameters.Pods; scenarioPods > 0 && pods > scenarioPods {
		for _, b := range d.Target.Bounds {
			if b.Memory != nil {
				b.Memory.Set(int64(float64(b.Memory.Value()) * float64(pods) / float64(scenarioPods)))
			}
		}
	}
	if f.factor != 0 {
		d.Parameters.Factor = f.factor
	}
	if f.seed != 0 {
		d.Parameters.Seed = f.seed
	}
	if errs := d.Validate(); len(errs) > 0 {
		return nil, usageError(errs.ToAggregate(), "--nodes, --pods and --factor must fit the scenario")
	}
	if d.Rehearsal != "" && !f.noRehearsal {
		if o.Rehearsal, err = scenarios.Load(d.Rehearsal); err != nil {
			return nil, usageError(err, "")
		}
		o.Rehearsal.Parameters.Factor = d.Parameters.Factor
	}
	for _, text := range f.layers {
		layers, err := replay.ParseLayers(text)
		if err != nil {
			return nil, usageError(err, "a run for each --layers: --layers none --layers gate")
		}
		o.Layers = append(o.Layers, layers)
	}
	for _, text := range f.bounds {
		kind, bounds, err := lab.ParseBounds(text)
		if err != nil {
			return nil, usageError(err, "")
		}
		o.Bounds[kind] = bounds
	}
	if o.Executable, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("finding this executable: %w", err)
	}
	if _, err := lab.FindBinDir(f.binDir); err != nil {
		return nil, usageError(err, "run 'make control-plane', or name their folder with --bin-dir")
	}
	began := time.Now()
	o.Progress = func(line string) { fmt.Fprintf(env.Stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), line) }
	return o, nil
}

// loadScenario takes the name of a scenario that ships with Seakeep, or a file.
func loadScenario(env *Env, name string) (*v1alpha1.Drill, error) {
	d, err := scenarios.Load(name)
	if err == nil {
		return d, nil
	}
	if !errors.Is(err, scenarios.ErrUnknown) {
		return nil, err
	}
	isFile := name == "-" || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") || strings.ContainsRune(name, filepath.Separator)
	if !isFile {
		return nil, usageError(err, "'seakeep drill list' shows them; a file's name ends in .yaml")
	}
	d, _, err = config.LoadKind[*v1alpha1.Drill](name, env.Stdin)
	if err != nil {
		return nil, usageError(err, "'seakeep drill validate FILE' checks a scenario")
	}
	return d, nil
}

// estimate says what a replay will take, before it takes it.
func estimate(o *replay.Options) string {
	d := o.Scenario
	play := d.Compressed(d.End.At.Duration - d.Phases[0].At.Duration)
	minutes := (time.Duration(len(o.Layers))*(play+20*time.Second) + time.Duration(*d.Parameters.Pods)*10*time.Millisecond + 30*time.Second).Minutes()
	return fmt.Sprintf(`%s
%d nodes, %d pods, incident time ÷ %g; %d run(s)
takes up to %.0f minutes on 2 cores, 8 GB of memory while it runs, and 2 GB of disk in %s until it is over
`, d.Title, d.Parameters.Nodes, *d.Parameters.Pods, d.Parameters.Factor, len(o.Layers), minutes, os.TempDir())
}

func isTerminal(stdin io.Reader) bool {
	file, ok := stdin.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

func agrees(env *Env) bool {
	fmt.Fprint(env.Stderr, "Go on? [Y/n] ")
	answer, _ := bufio.NewReader(env.Stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "" || answer == "y" || answer == "yes"
}

// writeReport writes the report's files, each whole or not at all.
func writeReport(r *report.Report, dir string) error {
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{"report.json", func(w io.Writer) error { return encodeReport(w, r) }},
		{"report.html", r.HTML},
		{"before-after.svg", r.Picture},
	} {
		file, err := renameio.NewPendingFile(filepath.Join(dir, f.name), renameio.WithPermissions(0o644))
		if err != nil {
			return fmt.Errorf("writing %s: %w", f.name, err)
		}
		err = f.write(file)
		if err == nil {
			err = file.CloseAtomicallyReplace()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("writing %s: %w", f.name, err), file.Cleanup())
		}
	}
	return nil
}

func encodeReport(w io.Writer, r *report.Report) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	return encoder.Encode(r)
}

func showReport(env *Env, r *report.Report, flags *replayFlags) error {
	if flags.output == "json" {
		return encodeReport(env.Stdout, r)
	}
	if err := r.Text(env.Stdout); err != nil {
		return err
	}
	_, err := fmt.Fprintf(env.Stdout, "Report: %s\n", filepath.Join(flags.out, "report.html"))
	return err
}
