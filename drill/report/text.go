package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/seakeep/seakeep/drill"
)

// row is a line of the side-by-side table.
type row struct {
	name  string
	value func(Run) string
	// good says whether a value is well, for the page's colours; nil: neither.
	good func(Run) drill.Verdict
}

// rows is the table, for the terminal and for the page.
var rows = []row{
	{"admin requests answered within 1 s", func(r Run) string { return percent(r.Admin.SuccessRatio) }, func(r Run) drill.Verdict { return atLeast(r.Admin.SuccessRatio, 0.99) }},
	{"admin p50 / p99", func(r Run) string { return duration(r.Admin.P50Seconds) + " / " + duration(r.Admin.P99Seconds) }, func(r Run) drill.Verdict { return atMost(r.Admin.P99Seconds, 1) }},
	{"break-glass answered", func(r Run) string { return percent(r.BreakGlass.SuccessRatio) }, func(r Run) drill.Verdict { return atLeast(r.BreakGlass.SuccessRatio, 0.99) }},
	{"break-glass p50 / p99", func(r Run) string {
		return duration(r.BreakGlass.P50Seconds) + " / " + duration(r.BreakGlass.P99Seconds)
	}, func(r Run) drill.Verdict { return atMost(r.BreakGlass.P99Seconds, 0.25) }},
	{"node leases missed / late", func(r Run) string { return count(r.Leases.Missed) + " / " + count(r.Leases.Late) }, noneMissed},
	{"DNS: cached names", func(r Run) string { return percent(r.DNS.Cached) }, func(r Run) drill.Verdict { return atLeast(r.DNS.Cached, 0.99) }},
	{"DNS: names not cached", func(r Run) string { return percent(r.DNS.Unique) }, func(r Run) drill.Verdict { return atLeast(r.DNS.Unique, 0.99) }},
	{"DNS after its restart", func(r Run) string { return percent(r.DNS.AfterRestart) }, func(r Run) drill.Verdict { return atLeast(r.DNS.AfterRestart, 0.9) }},
	{"scaling a Deployment, p99", func(r Run) string { return duration(r.Controllers.P99Seconds) }, func(r Run) drill.Verdict { return atMost(r.Controllers.P99Seconds, 5) }},
	{"API server: CPU", func(r Run) string { return fmt.Sprintf("%.0f s", r.APIServer.CPUSeconds) }, nil},
	{"API server: largest memory", func(r Run) string { return bytesText(float64(r.APIServer.MaxRSSBytes)) }, nil},
	{"API server: deaths", func(r Run) string { return fmt.Sprint(r.APIServer.Restarts) }, nil},
	{"API server: LISTs", func(r Run) string { return number(r.APIServer.ListRequests) }, nil},
	{"time to mitigate", func(r Run) string { return reached(r.Mitigation) }, func(r Run) drill.Verdict { return came(r.Mitigation) }},
	{"time to recover after that", func(r Run) string { return reached(r.Recovery) }, func(r Run) drill.Verdict { return came(r.Recovery) }},
}

// rolled is the row of runs that rolled the change out in steps.
var rolled = row{"nodes that ran the change", func(r Run) string {
	if r.Rollout == nil {
		return "–"
	}
	text := fmt.Sprintf("%d, %s", r.Rollout.ExposedNodes, r.Rollout.Phase)
	if r.Rollout.Stopped != nil {
		text += " after " + duration(r.Rollout.Stopped)
	}
	return text
}, nil}

// rows are those that say something of these runs.
func (r *Report) rows() []row {
	if !slices.ContainsFunc(r.Runs, func(run Run) bool { return run.Rollout != nil }) {
		return rows
	}
	return slices.Concat([]row{rolled}, rows)
}

// Text writes the side-by-side table and the verdicts.
func (r *Report) Text(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, cell func(Run) string) {
		cells := []string{name}
		for _, run := range r.Runs {
			cells = append(cells, cell(run))
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	line("", func(run Run) string { return "layers: " + run.Layers })
	for _, row := range r.rows() {
		line(row.name, row.value)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, run := range r.Runs {
		for _, h := range run.Hypotheses {
			fmt.Fprintf(w, "%-8s %s: %s (%s)\n", h.Verdict, run.Layers, h.Name, measuredText(h))
		}
		for _, problem := range run.Problems {
			fmt.Fprintf(w, "problem  %s: %s\n", run.Layers, problem)
		}
		if o := run.Rollout; o != nil {
			fmt.Fprintf(w, "rollout  %s: %s\n", run.Layers, o.Reason)
		}
	}
	_, err := fmt.Fprintf(w, "\n%s: %s\n", r.Verdict, r.Summary)
	return err
}

func measuredText(h Hypothesis) string {
	if h.Value == nil {
		return h.Claim + "; " + h.Reason
	}
	return fmt.Sprintf("%s; measured %.4g", h.Claim, *h.Value)
}

// Conclude sets the report's verdict and its one line.
func (r *Report) Conclude() {
	r.Verdict = drill.Pass
	for _, run := range r.Runs {
		switch {
		case run.Verdict == drill.Fail:
			r.Verdict = drill.Fail
		case run.Verdict == drill.Unknown && r.Verdict == drill.Pass:
			r.Verdict = drill.Unknown
		}
	}
	if len(r.Runs) == 0 {
		r.Verdict = drill.Unknown
	}
	var parts []string
	for _, run := range r.Runs {
		parts = append(parts, sentence(run))
	}
	r.Summary = strings.Join(parts, "; ")
}

// sentence says a run in half a line.
func sentence(run Run) string {
	name := "with " + run.Layers
	if run.Layers == None {
		name = "unprotected"
	}
	text := fmt.Sprintf("%s, %s of an engineer's requests were answered within 1 s", name, percent(run.Admin.SuccessRatio))
	if run.Mitigation == nil {
		return text + " and the cause could not be removed"
	}
	return text + fmt.Sprintf(" and the cause was removed in %s", duration(run.Mitigation))
}

func percent(v *float64) string {
	if v == nil {
		return "no data"
	}
	return fmt.Sprintf("%.1f %%", *v*100)
}

func duration(v *float64) string {
	switch {
	case v == nil:
		return "no data"
	case *v < 0.9995:
		return fmt.Sprintf("%.0f ms", *v*1000)
	case *v < 100:
		return fmt.Sprintf("%.1f s", *v)
	default:
		return fmt.Sprintf("%.0f s", *v)
	}
}

func reached(v *float64) string {
	if v == nil {
		return "not within the run"
	}
	return duration(v)
}

func count(v *int) string {
	if v == nil {
		return "no data"
	}
	return fmt.Sprint(*v)
}

func number(v *float64) string {
	if v == nil {
		return "no data"
	}
	return fmt.Sprintf("%.0f", *v)
}

func bytesText(v float64) string {
	if v >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", v/(1<<30))
	}
	return fmt.Sprintf("%.0f MiB", v/(1<<20))
}

func atLeast(v *float64, limit float64) drill.Verdict {
	return judge(v, func(v float64) bool { return v >= limit })
}

func atMost(v *float64, limit float64) drill.Verdict {
	return judge(v, func(v float64) bool { return v <= limit })
}

func judge(v *float64, good func(float64) bool) drill.Verdict {
	switch {
	case v == nil:
		return drill.Unknown
	case good(*v):
		return drill.Pass
	default:
		return drill.Fail
	}
}

func noneMissed(r Run) drill.Verdict {
	switch {
	case r.Leases.Missed == nil:
		return drill.Unknown
	case *r.Leases.Missed > 0:
		return drill.Fail
	case r.Leases.Undetermined > 0:
		return drill.Unknown
	default:
		return drill.Pass
	}
}

func came(v *float64) drill.Verdict {
	if v == nil {
		return drill.Fail
	}
	return drill.Pass
}
