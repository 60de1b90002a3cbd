package result

import (
	"fmt"
	"strings"
)

// Page writes docs/benchmarks.md out of the recorded reports.
func Page(reports []*Report) string {
	var b strings.Builder
	b.WriteString(`# Benchmarks

<!-- Made by 'make bench-record' from docs/benchmarks/*.json; 'make verify' fails when it does not match them. -->

Each table is one run of ` + "`make bench-<part>`" + `, which installs what it compares with and needs nothing else; ` + "`make bench`" + `
runs all parts. A value is the median of interleaved runs, with the lowest and the highest in brackets. A target on a
difference or a ratio is held to the median of paired runs, shown in square brackets. A missed target stays here, with
a profile that says where the time goes.
`)
	for _, r := range reports {
		r.section(&b)
	}
	return b.String()
}

func (r *Report) section(b *strings.Builder) {
	fmt.Fprintf(b, "\n## %s\n\n", r.name())
	fmt.Fprintf(b, "Measured %s on %s, version %s, with `make bench-%s`.\n\n", r.Taken.UTC().Format("2006-01-02"), r.Machine, r.Version, r.Part)
	for _, sentence := range r.Setup {
		fmt.Fprintf(b, "- %s\n", sentence)
	}
	contenders := r.contenders()
	fmt.Fprintf(b, "\n| Case | Metric | %s | Target | Met |\n|---|---|%s---|---|\n", strings.Join(contenders, " | "), strings.Repeat("---|", len(contenders)))
	for i := range r.Cases {
		c := &r.Cases[i]
		fmt.Fprintf(b, "| %s | %s, %s |", c.Case, c.Metric, c.Unit)
		for _, name := range contenders {
			fmt.Fprintf(b, " %s |", c.cell(name, r.Subject))
		}
		target, met := c.verdict()
		if met == "NO" {
			met = "**no**"
		}
		fmt.Fprintf(b, " %s | %s |\n", target, met)
	}
	r.notes(b)
	r.missed(b)
}

func (r *Report) notes(b *strings.Builder) {
	first := true
	for _, c := range r.Cases {
		if c.Note == "" {
			continue
		}
		if first {
			b.WriteString("\n")
			first = false
		}
		fmt.Fprintf(b, "- %s, %s: %s\n", c.Case, c.Metric, c.Note)
	}
}

// missed explains what was missed; a profile that explains nothing missed is left to the JSON.
func (r *Report) missed(b *strings.Builder) {
	for _, p := range r.Profiles {
		var names []string
		for _, c := range r.Missed() {
			if c.Profile == p.Name {
				names = append(names, c.Case+" "+c.Metric)
			}
		}
		if len(names) == 0 {
			continue
		}
		fmt.Fprintf(b, "\nMissed: %s. Where it goes (%s):\n\n```\n%s\n```\n", strings.Join(names, ", "), p.Name, strings.Join(p.Top, "\n"))
	}
}
