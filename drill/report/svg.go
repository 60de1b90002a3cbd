package report

import (
	"fmt"
	"html"
	"math"
	"strings"

	"github.com/seakeep/seakeep/drill"
)

// canvas writes SVG. Colours are CSS classes, so that the page (and the picture) follow light and dark.
type canvas struct {
	b             strings.Builder
	width, height float64
}

func (c *canvas) rect(x, y, w, h float64, class, title string) {
	fmt.Fprintf(&c.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s">`, x, y, max(w, 0), max(h, 0), class)
	if title != "" {
		fmt.Fprintf(&c.b, "<title>%s</title>", html.EscapeString(title))
	}
	c.b.WriteString("</rect>")
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&c.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

func (c *canvas) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`, x, y, class, anchor, html.EscapeString(text))
}

func (c *canvas) dot(x, y, r float64, class, title string) {
	fmt.Fprintf(&c.b, `<circle cx="%.1f" cy="%.1f" r="%.1f" class="%s"><title>%s</title></circle>`, x, y, r, class, html.EscapeString(title))
}

// path draws a line through points; a gap in the data is a gap in the line.
func (c *canvas) path(points []xy, class string) {
	var d strings.Builder
	command := "M"
	for _, p := range points {
		if math.IsNaN(p.y) {
			command = "M"
			continue
		}
		fmt.Fprintf(&d, "%s%.1f %.1f", command, p.x, p.y)
		command = "L"
	}
	if d.Len() > 0 {
		fmt.Fprintf(&c.b, `<path d="%s" class="%s"/>`, d.String(), class)
	}
}

type xy struct{ x, y float64 }

// axis maps seconds to pixels.
type axis struct{ from, to, left, right float64 }

func (a axis) x(second float64) float64 {
	if a.to <= a.from {
		return a.left
	}
	return a.left + (second-a.from)/(a.to-a.from)*(a.right-a.left)
}

// Geometry of a run's picture.
const (
	plotWidth  = 940.0
	plotLeft   = 152.0
	plotRight  = 46.0
	phaseBand  = 20.0
	markBand   = 20.0
	trackPitch = 46.0
	trackBar   = 9.0
	chartPitch = 66.0
)

// track is a probe's series and how it is called.
type track struct{ probe, series, label string }

// tracks are drawn in this order; those without data are drawn empty and say so.
var tracks = []track{
	{"admin", "", "Engineer"},
	{"breakglass", "", "Break-glass"},
	{"controllers", "scale", "Scale a Deployment"},
	{"leases", "overdue", "Node leases"},
	{"dns", "cached", "DNS, cached"},
	{"dns", "unique", "DNS, not cached"},
	{"dns", "afterRestart", "DNS after restart"},
	{"readyz", "readyz", "readyz"},
}

// chart is one of the API server's curves.
type chart struct {
	label string
	value func(Signal) *float64
	text  func(float64) string
}

var charts = []chart{
	{"API server CPU", func(s Signal) *float64 { return s.CPU }, func(v float64) string { return fmt.Sprintf("%.1f cores", v) }},
	{"Memory", func(s Signal) *float64 { return s.RSSBytes }, bytesText},
	{"In flight", func(s Signal) *float64 { return s.InFlight }, func(v float64) string { return fmt.Sprintf("%.0f", v) }},
	{"LISTs per second", func(s Signal) *float64 { return s.ListsPerSecond }, func(v float64) string { return fmt.Sprintf("%.1f/s", v) }},
}

// span is the time that all runs share, so that they can be compared by eye.
func span(runs []Run) (from, to float64) {
	for i, run := range runs {
		if i == 0 || run.BeginSecond < from {
			from = run.BeginSecond
		}
		to = max(to, run.EndSecond)
	}
	return from, to
}

// plot draws one run on the axis from–to.
func plot(run Run, from, to float64) string {
	c := &canvas{width: plotWidth}
	a := axis{from: from, to: to, left: plotLeft, right: plotWidth - plotRight}
	top := phaseBand + markBand + 8
	c.height = top + float64(len(tracks))*trackPitch + float64(len(charts))*chartPitch + 24
	bottom := c.height - 22
	for i, p := range run.Phases {
		class := "phase-a"
		if i%2 == 1 {
			class = "phase-b"
		}
		c.rect(a.x(p.StartSecond), 0, a.x(p.EndSecond)-a.x(p.StartSecond), bottom, class, p.Name)
		if a.x(p.EndSecond)-a.x(p.StartSecond) > 6.2*float64(len(p.Name)) {
			c.text((a.x(p.StartSecond)+a.x(p.EndSecond))/2, 14, "phase-name", "middle", p.Name)
		}
	}
	if run.EndSecond < to-1 {
		c.text(a.x((run.EndSecond+to)/2), (top+bottom)/2, "over", "middle", "over: recovered")
	}
	drawMarks(c, a, run, bottom)
	y := top
	for _, t := range tracks {
		drawTrack(c, a, run, t, y)
		y += trackPitch
	}
	for _, ch := range charts {
		drawChart(c, a, run, ch, y)
		y += chartPitch
	}
	for second := math.Ceil(from/10) * 10; second <= to; second += 10 {
		c.line(a.x(second), bottom, a.x(second), bottom+4, "tick")
		c.text(a.x(second), bottom+16, "tick-label", "middle", fmt.Sprintf("%d s", int(second)))
	}
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="Time lines of the run with layers %s">%s</svg>`,
		c.width, c.height, html.EscapeString(run.Layers), c.b.String())
}

// drawMarks puts the actions on the axis, numbered as in the list below the picture.
func drawMarks(c *canvas, a axis, run Run, bottom float64) {
	taken := -100.0
	for i, s := range run.Timeline {
		if s.Status == drill.StepNotReached {
			continue
		}
		x := a.x(s.StartSecond)
		c.line(x, phaseBand+markBand-2, x, bottom, "mark-line")
		if s.EndSecond-s.StartSecond > 1 {
			c.rect(x, phaseBand+6, a.x(s.EndSecond)-x, 6, "mark-span", s.Title)
		}
		at := max(x, taken+16)
		taken = at
		c.dot(at, phaseBand+9, 7.5, "mark "+string(s.Status), s.Title+": "+string(s.Status))
		c.text(at, phaseBand+12.5, "mark-number", "middle", fmt.Sprint(i+1))
	}
}

// drawTrack draws a bar that says, by the second, how many answers were good, and a curve of the latency.
func drawTrack(c *canvas, a axis, run Run, t track, y float64) {
	c.text(plotLeft-10, y+13, "label", "end", t.label)
	c.line(a.left, y+trackPitch-5, a.right, y+trackPitch-5, "base")
	points := merged(run, t)
	if len(points) == 0 {
		c.text(a.left+6, y+13, "empty", "start", "no data")
		return
	}
	samples, ok := 0, 0
	var curve []xy
	for _, p := range points {
		samples, ok = samples+p.Samples, ok+p.OK
		x := a.x(float64(p.Second))
		ratio := float64(p.OK) / float64(p.Samples)
		class := "bad"
		switch {
		case ratio >= 0.99:
			class = "good"
		case ratio >= 0.5:
			class = "mixed"
		}
		c.rect(x, y+4, min(a.x(float64(p.Second+1)), a.right)-x+0.3, trackBar, class,
			fmt.Sprintf("%s, second %d: %d of %d good, slowest %s", t.label, p.Second, p.OK, p.Samples, duration(&p.MaxSeconds)))
		curve = append(curve, xy{min(a.x(float64(p.Second)+0.5), a.right), latencyY(p.MaxSeconds, y)})
	}
	c.path(curve, "curve")
	c.text(plotLeft-10, y+27, "sub", "end", fmt.Sprintf("%.1f %% good", 100*float64(ok)/float64(samples)))
	c.text(a.right+6, y+22, "sub", "start", "30 s")
	c.text(a.right+6, y+trackPitch-4, "sub", "start", "1 ms")
}

// latencyY puts 1 ms to 30 s on a logarithmic scale.
func latencyY(seconds, y float64) float64 {
	const low, high = 1e-3, 30.0
	share := math.Log(min(max(seconds, low), high)/low) / math.Log(high/low)
	return y + trackPitch - 6 - share*(trackPitch-trackBar-12)
}

// merged adds a probe's series up, by the second; series "" is all of them.
func merged(run Run, t track) []Point {
	var out []Point
	index := map[int]int{}
	for _, s := range run.Series {
		if s.Probe != t.probe || t.series != "" && s.Series != t.series {
			continue
		}
		for _, p := range s.Points {
			i, ok := index[p.Second]
			if !ok {
				index[p.Second] = len(out)
				out = append(out, p)
				continue
			}
			out[i].Samples += p.Samples
			out[i].OK += p.OK
			out[i].MaxSeconds = max(out[i].MaxSeconds, p.MaxSeconds)
		}
	}
	return out
}

func drawChart(c *canvas, a axis, run Run, ch chart, y float64) {
	c.text(plotLeft-10, y+18, "label", "end", ch.label)
	c.line(a.left, y+chartPitch-8, a.right, y+chartPitch-8, "base")
	highest := 0.0
	for _, s := range run.Signals {
		if v := ch.value(s); v != nil {
			highest = max(highest, *v)
		}
	}
	if highest == 0 {
		c.text(a.left+6, y+18, "empty", "start", "no data")
		return
	}
	c.text(plotLeft-10, y+32, "sub", "end", "max "+ch.text(highest))
	var area []xy
	for _, s := range run.Signals {
		if v := ch.value(s); v != nil {
			area = append(area, xy{a.x(s.Second), y + chartPitch - 8 - *v/highest*(chartPitch-20)})
		}
	}
	c.area(area, y+chartPitch-8)
	c.path(area, "signal")
}

// area fills below a curve.
func (c *canvas) area(points []xy, base float64) {
	if len(points) < 2 {
		return
	}
	fmt.Fprintf(&c.b, `<path d="M%.1f %.1f`, points[0].x, base)
	for _, p := range points {
		fmt.Fprintf(&c.b, "L%.1f %.1f", p.x, p.y)
	}
	fmt.Fprintf(&c.b, `L%.1f %.1fZ" class="area"/>`, points[len(points)-1].x, base)
}
