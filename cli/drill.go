package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill/scenarios"
	"github.com/seakeep/seakeep/internal/config"
)

func newDrillCommand(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Practise: a timeline of actions, probes that run throughout, a hypothesis, a report",
		Example: `  seakeep drill list
  seakeep drill run openai-2024-12-11 --layers gate
  seakeep drill validate my-scenario.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newDrillRunCommand(env), newDrillValidateCommand(env), newDrillListCommand(env))
	return cmd
}

func newDrillRunCommand(env *Env) *cobra.Command {
	flags := &replayFlags{}
	cmd := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run a scenario against its target, a lab made for it and thrown away after it",
		Example: `  seakeep drill run openai-2024-12-11 --layers gate
  seakeep drill run my-scenario.yaml --nodes 50`,
		Args:              oneScenario,
		ValidArgsFunction: completeScenarios,
		RunE:              func(cmd *cobra.Command, args []string) error { return runReplay(cmd.Context(), env, args[0], flags) },
	}
	flags.register(cmd)
	_ = cmd.Flags().Set("out", "out/drill")
	cmd.Flags().Lookup("out").DefValue = "out/drill"
	return cmd
}

func newDrillValidateCommand(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check scenarios, strictly and completely, and run nothing",
		Example: `  seakeep drill validate my-scenario.yaml
  cat my-scenario.yaml | seakeep drill validate -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			for _, file := range args {
				if _, _, err := config.LoadKind[*v1alpha1.Drill](file, env.Stdin); err != nil {
					errs = append(errs, err)
					continue
				}
				fmt.Fprintf(env.Stdout, "%s: valid\n", file)
			}
			if len(errs) > 0 {
				return usageError(errors.Join(errs...), "")
			}
			return nil
		},
	}
}

func newDrillListCommand(env *Env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the scenarios that ship with Seakeep",
		Example: `  seakeep drill list
  seakeep drill list -o json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type item struct {
				Name      string `json:"name"`
				Title     string `json:"title"`
				Nodes     int    `json:"nodes"`
				Pods      int    `json:"pods"`
				Rehearsal string `json:"rehearsal,omitempty"`
			}
			var items []item
			for _, name := range scenarios.Names() {
				d, err := scenarios.Load(name)
				if err != nil {
					return err
				}
				items = append(items, item{Name: d.Name, Title: d.Title, Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Rehearsal: d.Rehearsal})
			}
			switch output {
			case "json":
				encoder := json.NewEncoder(env.Stdout)
				encoder.SetIndent("", "  ")
				return encoder.Encode(items)
			case "table":
				w := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tNODES\tPODS\tTITLE")
				for _, i := range items {
					fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", i.Name, i.Nodes, i.Pods, i.Title)
				}
				return w.Flush()
			}
			return usageError(fmt.Errorf("--output must be table or json, got %q", output), "")
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
