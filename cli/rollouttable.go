package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// shownRolloutEvents is how many events the page ends with.
const shownRolloutEvents = 8

// writeRollout draws a run: first how it is and why, then every stage, then what is looked at, then what happened last.
func writeRollout(w io.Writer, v *engine.View, now time.Time) error {
	took := now.Sub(v.Started)
	if !v.Ended.IsZero() {
		took = v.Ended.Sub(v.Started)
	}
	fmt.Fprintf(w, "%s  %s after %v", v.ID, strings.ToUpper(string(v.Phase)), took.Round(time.Second))
	if v.Title != "" {
		fmt.Fprintf(w, "  (%s)", clipped(v.Title))
	}
	fmt.Fprintln(w)
	if v.Message != "" {
		fmt.Fprintf(w, "%s: %s\n", v.Reason, printableLines(v.Message))
	}
	if !v.Phase.Over() && !carried(v, now) {
		fmt.Fprintf(w, "NO PROCESS CARRIES IT OUT since %s: nothing moves.\n", v.Written.UTC().Format(time.RFC3339))
	}
	fmt.Fprintln(w)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "STAGE\tCLUSTER\tSTATE\tSTEP\tEXPOSED\t\tBAKE\tLOOK\tSCALE GATE")
	for _, s := range v.Stages {
		for _, t := range s.Tasks {
			fmt.Fprintf(tab, "%s\t%s\t%s\t\t\t\t\t\t\n", s.Name, t.TaskKey, taskState(t))
		}
		for _, l := range s.Legs {
			fmt.Fprintf(tab, "%s\t%s\t%s\t%d/%d\t%s\t%s\t%s\t%s\t%s\n", s.Name, clipped(l.Cluster), legState(l),
				min(l.Step, len(l.Steps)), len(l.Steps), exposure(l), bar(l.ExposedNodes, l.Nodes), bakeClock(l), lookState(l.Look), gateState(l.ScaleGate))
		}
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	writeRolloutFindings(w, v)
	if len(v.Events) > 0 {
		fmt.Fprintln(w)
	}
	for _, e := range v.Events[max(0, len(v.Events)-shownRolloutEvents):] {
		if err := writeRolloutEvent(w, e); err != nil {
			return err
		}
	}
	return nil
}

// writeRolloutFindings says why what is not Pass is not, and what is predicted.
func writeRolloutFindings(w io.Writer, v *engine.View) {
	told := map[string]bool{}
	for _, s := range v.Stages {
		for _, l := range s.Legs {
			if told[l.Cluster] || l.Phase == journal.Waiting {
				continue
			}
			told[l.Cluster] = true
			if l.Look != nil {
				for _, f := range l.Look.Findings {
					if f.Verdict != verdict.Pass {
						fmt.Fprintf(w, "%s  %s  %s: %s\n", clipped(l.Cluster), f.Verdict, f.Check, printableLines(f.Reason))
					}
				}
			}
			// What is predicted is shown when it is well too: it is what the next step is held to.
			if f := l.ScaleGate; f != nil {
				fmt.Fprintf(w, "%s  %s  %s: %s\n", clipped(l.Cluster), f.Verdict, f.Check, printableLines(f.Reason))
			}
			if l.Error != "" && !v.Phase.Over() {
				fmt.Fprintf(w, "%s  the last round failed: %s\n", clipped(l.Cluster), printableLines(l.Error))
			}
			if l.Skipped != "" {
				fmt.Fprintf(w, "%s  skipped: %s\n", clipped(l.Cluster), printableLines(l.Skipped))
			}
			if l.BreakGlass != "" {
				fmt.Fprintf(w, "%s  reached by break-glass: %s\n", clipped(l.Cluster), l.BreakGlass)
			}
			if len(l.Rungs) > 0 {
				fmt.Fprintf(w, "%s  held down by %s\n", clipped(l.Cluster), strings.Join(l.Rungs, ", "))
			}
		}
	}
}

func taskState(t journal.Task) string {
	switch {
	case t.Done && t.By != "":
		return fmt.Sprintf("%s by %s", t.Type, t.By)
	case t.Done:
		return fmt.Sprintf("%s done", t.Type)
	case t.Waited > 0:
		return fmt.Sprintf("%s, %v so far", t.Type, t.Waited.Round(time.Second))
	}
	return fmt.Sprintf("%s, waited for", t.Type)
}

func legState(l engine.LegView) string {
	switch {
	case l.Failed != "" && !l.Back:
		return "Failed"
	case l.Skipped != "":
		return "Skipped"
	}
	return string(l.Phase)
}

func exposure(l engine.LegView) string {
	text := fmt.Sprintf("%d/%d", l.ExposedNodes, l.Nodes)
	if len(l.InFlight) > 0 {
		text += fmt.Sprintf(" (%d under way)", len(l.InFlight))
	}
	if l.LeakedNodes > 0 {
		text += fmt.Sprintf(" (%d leaked)", l.LeakedNodes)
	}
	return text
}

// bar draws a share in ten parts; what is there at all is seen.
func bar(part, whole int) string {
	full := 0
	if whole > 0 && part > 0 {
		full = min(10, max(1, part*10/whole))
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", 10-full) + "]"
}

func bakeClock(l engine.LegView) string {
	if l.Phase != journal.Baking {
		return "-"
	}
	return fmt.Sprintf("%v of %v", l.Baked.Round(time.Second), l.Bake)
}

func lookState(l *verdict.Look) string {
	if l == nil {
		return "-"
	}
	return string(l.Verdict)
}

func gateState(f *verdict.Finding) string {
	if f == nil {
		return "-"
	}
	return string(f.Verdict)
}

// writeRolloutEvent is one line.
func writeRolloutEvent(w io.Writer, e journal.Event) error {
	mark := " "
	if e.Type == journal.Warning {
		mark = "!"
	}
	where := e.Cluster
	if where == "" {
		where = e.Stage
	}
	if where != "" {
		where += "  "
	}
	_, err := fmt.Fprintf(w, "%s %s %s%s: %s\n", e.At.UTC().Format("15:04:05"), mark, where, e.Reason, printableLines(e.Message))
	return err
}

// printableLines is what others say, servers and webhooks too, without what would move a terminal; its lines are kept.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
