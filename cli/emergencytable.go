package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
)

// emergencyOutcome is one gate's part of the JSON output.
type emergencyOutcome[T any] struct {
	Gate   string `json:"gate"`
	Result *T     `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

func writeEmergencyJSON[T any](w io.Writer, outcomes []emergency.Outcome[T]) error {
	list := make([]emergencyOutcome[T], 0, len(outcomes))
	for _, o := range outcomes {
		one := emergencyOutcome[T]{Gate: o.Gate, Result: o.Result}
		if o.Err != nil {
			one.Error = o.Err.Error()
		}
		list = append(list, one)
	}
	return writeJSON(w, list, true)
}

func writeEmergencyResults(env *Env, output string, outcomes []emergency.Outcome[v1alpha1.EmergencyRuleResult]) error {
	for _, o := range outcomes {
		if o.Result == nil {
			continue
		}
		for _, warning := range o.Result.Warnings {
			fmt.Fprintf(env.Stderr, "warning: gate %s: %s\n", o.Gate, printable(warning))
		}
	}
	if output == "json" {
		return writeEmergencyJSON(env.Stdout, outcomes)
	}
	t := tabwriter.NewWriter(env.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GATE\tRULE\tACTION\tEXPIRES\tENDED\tDURABLE")
	for _, o := range outcomes {
		switch {
		case o.Err != nil:
			fmt.Fprintf(t, "%s\t-\tfailed\t-\t-\t-\n", o.Gate)
		case o.Result.DryRun:
			fmt.Fprintf(t, "%s\t(dry run)\t%s\t%s\t-\t-\n", o.Gate, o.Result.Rule.Action, o.Result.Rule.Expires.Format(time.RFC3339))
		default:
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", o.Gate, o.Result.Rule.ID, actionOf(&o.Result.Rule),
				o.Result.Rule.Expires.Format(time.RFC3339), o.Result.EndedRequests, yesNo(o.Result.Durable))
		}
	}
	return t.Flush()
}

// writeEmergencyStatus answers the first question first: is it Seakeep that turns them away?
func writeEmergencyStatus(env *Env, output string, outcomes []emergency.Outcome[v1alpha1.EmergencyStatus]) error {
	if output == "json" {
		return writeEmergencyJSON(env.Stdout, outcomes)
	}
	w := env.Stdout
	fmt.Fprintln(w, "REJECTED IN THE LAST MINUTE")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rejected := 0
	for _, o := range outcomes {
		if o.Result == nil {
			continue
		}
		for _, r := range o.Result.Rejected {
			if rejected == 0 {
				fmt.Fprintln(t, "  COUNT\tREASON\tRULE\tUSER\tUSER AGENT\tGATE")
			}
			rejected++
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\n", r.Count, r.Reason, r.Rule, clipped(r.User), clipped(r.UserAgent), o.Gate)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if rejected == 0 {
		fmt.Fprintln(w, "  nobody, on the gates that answered")
	}
	fmt.Fprintln(w, "\nEMERGENCY RULES IN FORCE")
	if err := writeEmergencyRules(w, outcomes); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nHEALTH")
	for _, o := range outcomes {
		writeEmergencyHealth(w, &o)
	}
	return nil
}

func writeEmergencyRules(w io.Writer, outcomes []emergency.Outcome[v1alpha1.EmergencyStatus]) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rules := 0
	for _, o := range outcomes {
		if o.Result == nil {
			continue
		}
		for _, r := range o.Result.Rules {
			if rules == 0 {
				fmt.Fprintln(t, "  ID\tACTION\tREMAINING\tSELECTS\tBY\tREASON\tGATE")
			}
			rules++
			// The gate's clock says what remains: the rule ends by it, not by ours.
			remaining := r.Expires.Sub(o.Result.Time.Time).Round(time.Second)
			fmt.Fprintf(t, "  %s\t%s\t%v\t%s\t%s\t%s\t%s\n", r.ID, actionOf(&r), remaining, clipped(describeEmergency(&r)), printable(r.By), clipped(r.Reason), o.Gate)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if rules == 0 {
		fmt.Fprintln(w, "  none")
	}
	return nil
}

func writeEmergencyHealth(w io.Writer, o *emergency.Outcome[v1alpha1.EmergencyStatus]) {
	if o.Err != nil {
		fmt.Fprintf(w, "  %s: does not answer: %s\n", o.Gate, printable(o.Err.Error()))
		return
	}
	problems := slices.Clone(o.Result.Warnings)
	if until := o.Result.SqueezedUntil; until != nil {
		problems = append(problems, "squeezed for the break-glass lane until "+until.Format(time.RFC3339))
	}
	if len(problems) == 0 {
		fmt.Fprintf(w, "  %s: ok\n", o.Gate)
	}
	for _, p := range problems {
		fmt.Fprintf(w, "  %s: %s\n", o.Gate, printable(p))
	}
}

// actionOf is what a rule does, or would do.
func actionOf(r *v1alpha1.EmergencyRule) string {
	if r.Mode == v1alpha1.Shadow {
		return string(r.Action) + " (shadow)"
	}
	return string(r.Action)
}

// describeEmergency is what a rule selects, in the words of the flags that set it.
func describeEmergency(r *v1alpha1.EmergencyRule) string {
	if r.Action == v1alpha1.EmergencyLockdown {
		return "everyone but " + strings.Join(append(slices.Clone(r.ExceptUsers), r.ExceptGroups...), ",")
	}
	m := &r.Match
	var parts []string
	add := func(flag string, values []string) {
		if len(values) > 0 {
			parts = append(parts, flag+"="+strings.Join(values, ","))
		}
	}
	add("user-agent", m.UserAgents)
	add("user", m.Users)
	add("group", m.Groups)
	add("service-account-namespace", m.ServiceAccountNamespaces)
	add("pod", m.Pods)
	add("verb", m.Verbs)
	add("resource", m.Resources)
	add("api-group", m.APIGroups)
	add("namespace", m.Namespaces)
	add("name", m.Names)
	add("path", m.NonResourcePaths)
	add("source", m.SourceCIDRs)
	for _, s := range m.Scopes {
		parts = append(parts, "scope="+string(s))
	}
	return cmp.Or(strings.Join(parts, " "), "everyone")
}

// printable keeps what a client sent, or a colleague wrote, from steering the terminal it is shown on.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}

// clipped is printable, and short enough for a column.
func clipped(s string) string {
	const most = 80
	if runes := []rune(printable(s)); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return printable(s)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}
