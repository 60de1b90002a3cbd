package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/budget"
	"github.com/seakeep/seakeep/gate/clamp"
)

// newGateClamp is `seakeep gate clamp`.
func newGateClamp(env *Env) *cobra.Command {
	var view gateView
	cmd := &cobra.Command{
		Use:   "clamp",
		Short: "Show whose cost grows with the nodes it runs on, and which of them are clamped",
		Long: `Shows the clients whose cost grows with the number of sources they come from, and whose forecast for all nodes passes the
headroom: what they hold and are forecast to hold in seats, and what became of it. SHADOW is a clamp that only counts
('seakeep gate shadow' says whom it would have hurt); CLAMPED is one in force, which 'seakeep emergency lift RULE' ends;
named only is a client the policy spares, and why.`,
		Example: `  seakeep gate clamp
  seakeep gate clamp -o json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return viewGate(cmd.Context(), env, &view, "/v1/clamp", func(w io.Writer, status *clamp.Status) error {
				return writeClamp(w, status, view.n, rulesInShadow(cmd, &view))
			})
		},
	}
	view.flags(cmd)
	view.limitFlag(cmd, "lines to show, 0 for all")
	return cmd
}

// rulesInShadow are the IDs of emergency rules that only count, as far as the gate says.
func rulesInShadow(cmd *cobra.Command, view *gateView) map[string]bool {
	var rules struct {
		Rules []v1alpha1.EmergencyRule `json:"rules"`
	}
	ids := map[string]bool{}
	if err := view.fetch(cmd.Context(), "/v1/rules", &rules); err != nil {
		return ids
	}
	for _, r := range rules.Rules {
		ids[r.ID] = r.Mode == v1alpha1.Shadow
	}
	return ids
}

func writeClamp(w io.Writer, s *clamp.Status, n int, shadow map[string]bool) error {
	if s.Mode == string(v1alpha1.PolicyDisabled) {
		_, err := fmt.Fprintln(w, "The growth clamp is disabled (clamp.mode).")
		return err
	}
	fmt.Fprintf(w, "%s  %.1f of %.0f seats held (%s); %d nodes (%s); a client's forecast may take %d%% of what others leave; mode %s\n",
		s.Taken.Format(time.TimeOnly), s.Seats, s.Capacity, s.CapacitySource, s.Nodes, s.NodesSource, s.HeadroomPercent, s.Mode)
	if len(s.Suspects) == 0 {
		_, err := fmt.Fprintln(w, "Nobody's cost grows with its nodes beyond that.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSTATE\tSEATS\tFORECAST\tHEADROOM\tPER SOURCE\tSOURCES\tNODES\tNAMED\tRULE\tENDS IN\tUSER")
	shown := limited(s.Suspects, n)
	for i := range shown {
		c := &shown[i]
		state, rule, ends := "named", "-", "-"
		switch {
		case c.Rule != "":
			state, rule = "CLAMPED to "+fmt.Sprint(c.Concurrency), c.Rule
			if shadow[c.Rule] {
				state = "SHADOW of " + fmt.Sprint(c.Concurrency)
			}
			if c.Until != nil {
				ends = c.Until.Sub(s.Taken).Round(time.Second).String()
			}
		case c.Spared != "":
			state = "named only (" + c.Spared + ")"
		}
		perSource := "-" // not known yet
		if c.SeatsPerSource > 0 {
			perSource = fmt.Sprintf("%.4f", c.SeatsPerSource)
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", state, c.Seats, c.Forecast, c.Headroom, perSource,
			c.Sources, c.Nodes, c.Named.Format(time.TimeOnly), rule, ends, clipped(c.User))
	}
	return flushed(w, t, len(s.Suspects)-len(shown), "clients")
}

// newGateShadow is `seakeep gate shadow`.
func newGateShadow(env *Env) *cobra.Command {
	var view gateView
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Show whom rules, budgets and clamps in shadow would have turned away",
		Long: `Shows, for every limit rule, emergency rule, clamp and API budget in mode Shadow, whom it would have turned away since the
gate started: how often, for what reason, and when last. Nobody was. A request that would first have waited for a place is
counted a second later, if none became free. 'seakeep gate replay-audit' answers the same from a recorded audit log.`,
		Example: `  seakeep gate shadow
  seakeep emergency throttle --user-agent 'telemetry-agent/*' --concurrency 2 --shadow --for 30m --reason "would it hurt?"`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return viewGate(cmd.Context(), env, &view, "/v1/shadow", func(w io.Writer, status *v1alpha1.ShadowStatus) error {
				return writeShadow(w, status, view.n)
			})
		},
	}
	view.flags(cmd)
	view.limitFlag(cmd, "lines to show, 0 for all")
	return cmd
}

func writeShadow(w io.Writer, s *v1alpha1.ShadowStatus, n int) error {
	total := int64(0)
	for i := range s.Rejected {
		total += s.Rejected[i].Count
	}
	fmt.Fprintf(w, "%s  %d requests would have been turned away since %s; none was\n",
		s.Time.Format(time.TimeOnly), total, s.Since.UTC().Format(time.RFC3339))
	if len(s.Rejected) == 0 {
		return nil
	}
	return writeShadowed(w, s.Rejected, n)
}

func writeShadowed(w io.Writer, list []v1alpha1.ShadowedClient, n int) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCOUNT\tREASON\tRULE\tFIRST\tLAST\tUSER\tUSER AGENT")
	shown := limited(list, n)
	for i := range shown {
		c := &shown[i]
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Count, c.Reason, c.Rule, c.First.UTC().Format(time.RFC3339), c.Last.UTC().Format(time.RFC3339),
			clipped(cell(c.User)), clipped(cell(c.UserAgent)))
	}
	return flushed(w, t, len(list)-len(shown), "clients")
}

// newGateBudgets is `seakeep gate budgets`.
func newGateBudgets(env *Env) *cobra.Command {
	var view gateView
	cmd := &cobra.Command{
		Use:   "budgets",
		Short: "Show what workloads declared they need of the API, and how they stand with it",
		Long: `Shows each ServiceAccount with an API budget: the seats it may use in this cluster, what was declared, by which objects,
and its balance in seat-seconds (negative is a debt; "-" when it sent nothing lately). A budget is declared by the annotation
` + v1alpha1.APIBudgetAnnotation + `: "seats-per-node=0.02,seats=4" on the ServiceAccount, or on its DaemonSets, Deployments and
StatefulSets, which add up.`,
		Example: `  kubectl annotate daemonset -n monitoring agent ` + v1alpha1.APIBudgetAnnotation + `=seats-per-node=0.02,seats=4
  seakeep gate budgets`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return viewGate(cmd.Context(), env, &view, "/v1/budgets", func(w io.Writer, status *budget.Status) error {
				if status.Mode == "" {
					fmt.Fprintln(env.Stderr, "no budgets are read: the gate's configuration has no field 'budgets'")
					return nil
				}
				return writeBudgets(w, status, view.n)
			})
		},
	}
	view.flags(cmd)
	view.limitFlag(cmd, "lines to show, 0 for all")
	return cmd
}

func writeBudgets(w io.Writer, s *budget.Status, n int) error {
	read := "never read"
	if !s.Read.IsZero() {
		read = "read " + s.Taken.Sub(s.Read).Round(time.Second).String() + " ago"
	}
	fmt.Fprintf(w, "%s  %d accounts with a budget on %d nodes, %s; mode %s; default %s\n",
		s.Taken.Format(time.TimeOnly), len(s.Accounts), s.Nodes, read, s.Mode, cmp.Or(s.Default, "none"))
	if s.Error != "" {
		fmt.Fprintf(w, "cannot be read now: %s\n", clipped(strings.ReplaceAll(s.Error, "\n", "; ")))
	}
	if len(s.Accounts) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nSEATS\tDECLARED\tBALANCE\tHELD\tUSER\tBY")
		shown := limited(s.Accounts, n)
		for i := range shown {
			a := &shown[i]
			balance, held, declared := "-", "-", "-"
			if a.Balance != nil && a.Held != nil {
				balance, held = fmt.Sprintf("%.2f", *a.Balance), fmt.Sprint(*a.Held)
			}
			if a.Declared > 0 {
				declared = fmt.Sprintf("%.3f", a.Declared)
			}
			var by []string
			for _, d := range a.By {
				by = append(by, d.Kind+"/"+d.Name)
			}
			fmt.Fprintf(t, "%.3f\t%s\t%s\t%s\t%s\t%s\n", a.Seats, declared, balance, held, clipped(cell(a.User)), clipped(cmp.Or(strings.Join(by, ","), "default")))
		}
		if err := flushed(w, t, len(s.Accounts)-len(shown), "accounts"); err != nil {
			return err
		}
	}
	if len(s.Invalid) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCANNOT BE USED\tOF\tWHY")
	for _, d := range limited(s.Invalid, n) {
		namespace, _, _ := strings.Cut(d.Account, "/")
		fmt.Fprintf(t, "%s\t%s %s/%s\t%s\n", clipped(cell(d.Budget)), d.Kind, namespace, cell(d.Name), clipped(d.Error))
	}
	return t.Flush()
}
