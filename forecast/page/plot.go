package page

import (
	"fmt"
	"html"
	"math"
	"strings"

	"github.com/seakeep/seakeep/forecast"
)

// Geometry of a plot, in pixels.
const (
	width, height           = 940.0, 300.0
	left, right, top, below = 74.0, 20.0, 18.0, 40.0
	// points the line and the band are drawn through.
	points = 60
)

// canvas writes SVG. Colours are CSS classes, so that the page follows light and dark.
type canvas struct {
	b strings.Builder
	// x1 is the most nodes, y1 the highest cost.
	x1, y1 float64
}

// x is logarithmic: on a straight scale one and three of three hundred nodes are one place.
func (c *canvas) x(n float64) float64 {
	return left + (width-left-right)*math.Log1p(n)/math.Log1p(c.x1)
}

// decades of cost are drawn.
const decades = 4

// y is logarithmic as x is.
func (c *canvas) y(v float64) float64 {
	share := 1 + math.Log10(math.Max(v/c.y1, math.Pow(10, -decades)))/decades
	return height - below - (height-top-below)*share
}

func (c *canvas) text(x, y float64, class, anchor, text string) {
	fmt.Fprintf(&c.b, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`, x, y, class, anchor, html.EscapeString(text))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&c.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

// plot draws one kind on one cluster; limit is what the component may take, 0 when that is not known.
func (p Page) plot(c Cluster, kind forecast.Kind, limit float64) string {
	at := c.Prediction.At
	full := float64(max(1, at.Exposed))
	canvas := &canvas{x1: full}
	final := c.Prediction.Kinds[kind]
	highest := math.Max(final.Mean, limit)
	if !final.Unbounded && final.Unknown == "" { // else it is none, or far off
		highest = math.Max(highest, math.Min(final.Upper, 20*math.Max(final.Mean, limit)))
	}
	canvas.y1 = highest * 1.1
	if !(canvas.y1 > 0) {
		canvas.y1 = 1
	}
	var mean, upper, lower []string
	before := 0
	for i := range points + 1 {
		n := math.Expm1(math.Log1p(full) * float64(i) / points)
		one := at
		if one.Exposed = int(math.Round(n)); one.Exposed == before {
			continue
		}
		before = one.Exposed
		got := p.Model.Predict(one).Kinds[kind]
		x := canvas.x(float64(one.Exposed))
		mean = append(mean, fmt.Sprintf("%.1f,%.1f", x, canvas.y(got.Mean)))
		high := got.Upper
		if got.Unbounded {
			high = canvas.y1
		}
		upper = append(upper, fmt.Sprintf("%.1f,%.1f", x, canvas.y(math.Min(high, canvas.y1))))
		lower = append([]string{fmt.Sprintf("%.1f,%.1f", x, canvas.y(got.Lower))}, lower...)
	}
	canvas.axes()
	fmt.Fprintf(&canvas.b, `<polygon points="%s %s" class="band"/>`, strings.Join(upper, " "), strings.Join(lower, " "))
	fmt.Fprintf(&canvas.b, `<polyline points="%s" class="mean"/>`, strings.Join(mean, " "))
	if limit > 0 {
		canvas.line(left, canvas.y(limit), width-right, canvas.y(limit), "limit")
		canvas.text(left+6, canvas.y(limit)-5, "limit-label", "start", "what it may take: "+forecast.Number(limit))
	}
	background, _ := p.Model.Background(c.Name, kind)
	for _, s := range p.Samples {
		v, own := s.Cost[kind]
		if !own {
			all, ok := s.Server[kind]
			if !ok {
				continue
			}
			v = math.Max(0, all-background)
		}
		if s.Cluster != c.Name || s.Startup || s.Exposed == 0 {
			continue
		}
		class := "seen"
		if s.Censored != forecast.Whole {
			class = "censored"
		}
		fmt.Fprintf(&canvas.b, `<circle cx="%.1f" cy="%.1f" r="3" class="%s"><title>%s</title></circle>`, canvas.x(float64(s.Exposed)), canvas.y(v), class,
			html.EscapeString(fmt.Sprintf("%s on %d nodes, %s", forecast.Number(v), s.Exposed, s.From.Format("15:04:05"))))
	}
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s of %s over nodes exposed">%s</svg>`, width, height,
		html.EscapeString(string(kind)), html.EscapeString(c.Name), canvas.b.String())
}

func (c *canvas) axes() {
	bottom := height - below
	c.line(left, bottom, width-right, bottom, "base")
	for n := 1.0; n <= c.x1; n *= 3 {
		if n*1.6 > c.x1 && n < c.x1 {
			break
		}
		c.line(c.x(n), bottom, c.x(n), bottom+4, "tick")
		c.text(c.x(n), bottom+17, "tick-label", "middle", fmt.Sprint(int(n)))
	}
	c.line(c.x(c.x1), bottom, c.x(c.x1), bottom+4, "tick")
	c.text(c.x(c.x1), bottom+17, "tick-label", "end", fmt.Sprintf("%d nodes", int(c.x1)))
	for v := c.y1 / 1.1; v > c.y1/5e3; v /= 10 {
		c.line(left, c.y(v), width-right, c.y(v), "grid")
		c.text(left-8, c.y(v)+4, "tick-label", "end", forecast.Number(v))
	}
}
