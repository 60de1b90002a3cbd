// Package page draws a forecast: what was observed on each step, the line through it, the band it may lie in, and the room
// there is. One HTML file, without a script and without anything to fetch.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"github.com/seakeep/seakeep/forecast"
)

//go:embed page.html
var pageSource string

//go:embed style.css
var style string

// Page is what is drawn.
type Page struct {
	Workload       string
	Clusters       []Cluster
	Samples        []forecast.Sample
	Model          *forecast.Model
	MaxUtilization float64
}

// Cluster is a cluster that is asked about.
type Cluster struct {
	Name       string
	Nodes      int
	Prediction forecast.Prediction
	Judgement  forecast.Judgement
}

// figure is one kind's plot with its caption.
type figure struct {
	Title, Caption string
	Plot           template.HTML
}

type section struct {
	Cluster
	Figures []figure
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"number": forecast.Number, "percent": func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) },
}).Parse(pageSource))

// Write writes the page.
func Write(w io.Writer, p Page) error {
	sections := make([]section, len(p.Clusters))
	for i, c := range p.Clusters {
		sections[i] = section{Cluster: c, Figures: p.figures(c)}
	}
	err := page.Execute(w, map[string]any{"Page": p, "Sections": sections, "Style": template.CSS(style), "Bound": p.MaxUtilization})
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// figures are a cluster's plots, of the kinds that can be predicted there.
func (p Page) figures(c Cluster) []figure {
	var all []figure
	for _, kind := range forecast.Kinds() {
		i, ok := c.Prediction.Kinds[kind]
		if !ok {
			continue
		}
		f := figure{Title: title(kind), Caption: i.From}
		if i.Unknown != "" {
			f.Caption = i.Unknown
		}
		if i.Unbounded && i.Lower == 0 {
			all = append(all, f) // there is nothing to draw, and why
			continue
		}
		limit := 0.0
		for _, s := range c.Judgement.Shares {
			if s.Kind == kind {
				limit = s.Room * c.Judgement.Bound
			}
		}
		// Every text in it is escaped where it is written.
		f.Plot = template.HTML(p.plot(c, kind, limit))
		all = append(all, f)
	}
	return all
}

func title(kind forecast.Kind) string {
	switch unit := kind.Unit(); unit {
	case "", string(kind):
		return string(kind)
	default:
		return string(kind) + ", " + unit
	}
}
