package result

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Number prints three significant digits, which is more than any of these measurements has.
func Number(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	decimals := max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// contenders are the report's columns: the subject and then every baseline.
func (r *Report) contenders() []string {
	seen := map[string]bool{}
	for _, c := range r.Cases {
		for name := range c.Baselines {
			seen[name] = true
		}
	}
	return append([]string{r.Subject}, slices.Sorted(maps.Keys(seen))...)
}

// cell is a contender's median and its spread.
func (c *Case) cell(contender, subject string) string {
	value, ok := c.Baselines[contender]
	if contender == subject {
		value, ok = c.Value, true
	}
	if !ok {
		return "–"
	}
	spread := c.Spread[contender]
	if spread.Min == spread.Max {
		return Number(value)
	}
	return fmt.Sprintf("%s (%s–%s)", Number(value), Number(spread.Min), Number(spread.Max))
}

// verdict is the target and whether it was met.
func (c *Case) verdict() (target, met string) {
	if c.Met == nil {
		return "", ""
	}
	target = c.Target
	if c.Judged != nil {
		target += fmt.Sprintf(" [%s]", Number(*c.Judged))
	}
	if *c.Met {
		return target, "yes"
	}
	return target, "NO"
}

// Table prints the cases for a terminal.
func (r *Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	contenders := r.contenders()
	fmt.Fprintf(t, "CASE\tMETRIC\tUNIT\t%s\tTARGET\tMET\n", strings.ToUpper(strings.Join(contenders, "\t")))
	for i := range r.Cases {
		c := &r.Cases[i]
		fmt.Fprintf(t, "%s\t%s\t%s", c.Case, c.Metric, c.Unit)
		for _, name := range contenders {
			fmt.Fprintf(t, "\t%s", c.cell(name, r.Subject))
		}
		target, met := c.verdict()
		fmt.Fprintf(t, "\t%s\t%s\n", target, met)
	}
	return t.Flush()
}
