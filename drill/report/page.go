package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"

	"github.com/seakeep/seakeep/drill"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": percent, "duration": duration, "inc": func(i int) int { return i + 1 },
	"measured": measuredText, "bytes": func(v int64) string { return bytesText(float64(v)) },
	"sorted": func(m map[string]uint64) []string { return slices.Sorted(maps.Keys(m)) },
}).Parse(pageSource))

// cell is a figure of a run with its colour.
type cell struct {
	Text    string
	Verdict drill.Verdict
}

type tableRow struct {
	Name  string
	Cells []cell
}

// HTML writes the page. It needs no network and no script.
func (r *Report) HTML(w io.Writer) error {
	var table []tableRow
	for _, row := range r.rows() {
		line := tableRow{Name: row.name}
		for _, run := range r.Runs {
			c := cell{Text: row.value(run)}
			if row.good != nil {
				c.Verdict = row.good(run)
			}
			line.Cells = append(line.Cells, c)
		}
		table = append(table, line)
	}
	from, to := span(r.Runs)
	plots := make([]template.HTML, len(r.Runs))
	for i, run := range r.Runs {
		plots[i] = template.HTML(plot(run, from, to)) // every text in it is escaped where it is written
	}
	if err := page.Execute(w, map[string]any{
		"Report": r, "Rows": table, "Plots": plots, "Style": template.CSS(style),
	}); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}
