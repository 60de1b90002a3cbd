package page

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

func samples(name string, steps ...int) (all []forecast.Sample) {
	at := time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)
	for _, n := range steps {
		for i := range 3 {
			all = append(all, forecast.Sample{
				Cluster: name, Nodes: 300, Exposed: n, From: at, To: at.Add(time.Minute),
				Cost:   map[forecast.Kind]float64{forecast.Seats: 0.03 * float64(n) * (1 + 0.02*float64(i)), forecast.Requests: 0.1 * float64(n)},
				Server: map[forecast.Kind]float64{forecast.CPU: 1 + 0.01*float64(n) + 0.001*float64(i)},
			})
			at = at.Add(time.Minute)
		}
	}
	return all
}

func draw(t *testing.T, name string, all []forecast.Sample) string {
	t.Helper()
	m, err := forecast.Fit(all, forecast.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := m.Predict(forecast.At{Cluster: name, Nodes: 300})
	j := forecast.Judge(p, forecast.Capacity{Kinds: map[forecast.Kind]forecast.Room{forecast.Seats: {Capacity: 10, Used: 1}, forecast.CPU: {Capacity: 8}}})
	var b bytes.Buffer
	if err := Write(&b, Page{Workload: "daemonset/a/" + name, Clusters: []Cluster{{Name: name, Nodes: 300, Prediction: p, Judgement: j}}, Samples: all, Model: m, MaxUtilization: 0.6}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whatever clusters are called, the page has what was seen and what is expected, and each picture is well-formed.
func TestPage(t *testing.T) {
	for _, name := range []string{"large", `<script>alert("x")</script>&`} {
		text := draw(t, name, samples(name, 0, 1, 3))
		if strings.Contains(text, "<script") || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("the page of %q has what it must not", name)
		}
		pictures := strings.Split(text, "<svg ")[1:]
		if len(pictures) != 3 {
			t.Fatalf("%d pictures, want seats, requests and processors", len(pictures))
		}
		for _, picture := range pictures {
			picture, _, _ = strings.Cut("<svg "+picture, "</svg>")
			decoder := xml.NewDecoder(strings.NewReader(picture + "</svg>"))
			for {
				if _, err := decoder.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("a picture of %q: %v", name, err)
				}
			}
			if strings.Count(picture, `class="seen"`) != 6 || !strings.Contains(picture, `class="band"`) {
				t.Errorf("a picture of %q has %d dots, want those of one and three nodes", name, strings.Count(picture, `class="seen"`))
			}
		}
	}
}

// What cannot be predicted has no picture, and says why.
func TestPageWithoutAPrediction(t *testing.T) {
	text := draw(t, "large", samples("large", 1)[:1])
	if strings.Contains(text, "<svg ") || !strings.Contains(text, "repeated samples tell what a measurement is worth") {
		t.Error(text)
	}
}
