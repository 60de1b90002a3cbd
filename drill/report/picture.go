package report

import (
	"fmt"
	"html"
	"io"
)

// Colours of the picture, which stands alone on other people's pages: an image has no page to take them from.
const pictureStyle = `<style>
.card{fill:#fff;stroke:#dfe3ea}.ink{fill:#1a2230;font:600 15px system-ui,"Segoe UI",Arial,sans-serif}
.soft{fill:#5d6878;font:12px system-ui,"Segoe UI",Arial,sans-serif}.big{font:700 21px system-ui,"Segoe UI",Arial,sans-serif}
.good{fill:#1f9d6b}.mixed{fill:#e2a32b}.bad{fill:#d4483b}.none{fill:#eef1f5}.mark{stroke:#2b6cb0;stroke-dasharray:2 3}
@media(prefers-color-scheme:dark){.card{fill:#1a212b;stroke:#2d3744}.ink{fill:#e6eaf0}.soft{fill:#98a3b3}.none{fill:#202935}
.good{fill:#34b27d}.mixed{fill:#dba63a}.bad{fill:#e5695d}.mark{stroke:#6aaae8}}
</style>`

// Picture writes the README's opening picture: what an engineer and a DNS client got, second by second, in each run.
func (r *Report) Picture(w io.Writer) error {
	const width, left, right, bar, pitch, block = 860.0, 150.0, 24.0, 20.0, 34.0, 134.0
	from, to := span(r.Runs)
	a := axis{from: from, to: to, left: left, right: width - right}
	c := &canvas{width: width, height: 40 + block*float64(len(r.Runs)) + 26}
	c.rect(0.5, 0.5, width-1, c.height-1, "card", "")
	c.text(20, 27, "ink", "start", fmt.Sprintf("%s, replayed on a real control plane: %d nodes, %d pods", r.Scenario, r.Parameters.Nodes, r.Parameters.Pods))
	y := 44.0
	for _, run := range r.Runs {
		name := "With " + run.Layers
		if run.Layers == None {
			name = "Unprotected"
		}
		c.text(20, y+20, "ink", "start", name)
		c.text(max(left, 34+9*float64(len(name))), y+20, "soft", "start", sentence(run)) // beside the name, however long
		for i, t := range []track{{"admin", "", "an engineer"}, {"dns", "unique", "a DNS query"}} {
			drawCells(c, a, run, t, y+30+float64(i)*pitch, bar)
		}
		for _, s := range run.Timeline {
			if s.Kind == "apply" {
				c.line(a.x(s.StartSecond), y+26, a.x(s.StartSecond), y+30+2*pitch, "mark")
				c.text(a.x(s.StartSecond)+4, y+30+2*pitch+4, "soft", "start", "the DaemonSet is rolled out")
			}
			if s.Kind == "delete" && s.Attempts > 0 {
				c.line(a.x(s.StartSecond), y+26, a.x(s.StartSecond), y+30+2*pitch, "mark")
				c.text(a.x(s.StartSecond)+4, y+30+2*pitch+4, "soft", "start", "its deletion is tried")
			}
		}
		y += block
	}
	c.text(left, c.height-10, "soft", "start", "Each cell is one second: green, every request answered in time; yellow, most; red, fewer than half.")
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">%s%s</svg>`+"\n",
		c.width, c.height, c.width, c.height, html.EscapeString(r.Summary), pictureStyle, c.b.String())
	return err
}

// None is the layers' name of a run without any.
const None = "none"

func drawCells(c *canvas, a axis, run Run, t track, y, height float64) {
	c.text(a.left-10, y+14, "soft", "end", t.label)
	c.rect(a.left, y, a.x(run.EndSecond)-a.left, height, "none", "")
	for _, p := range merged(run, t) {
		ratio := float64(p.OK) / float64(p.Samples)
		class := "bad"
		switch {
		case ratio >= 0.99:
			class = "good"
		case ratio >= 0.5:
			class = "mixed"
		}
		x := a.x(float64(p.Second))
		c.rect(x, y, a.x(float64(p.Second+1))-x-0.6, height, class, "")
	}
}
