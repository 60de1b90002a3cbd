package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCollect(t *testing.T) {
	tests := map[string]struct {
		body    string
		want    string // name kind labels help
		wantErr string
	}{
		"a counter": {
			body: `var c = prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_x_a_total", Help: "Things."})`,
			want: "seakeep_x_a_total counter [] Things.",
		},
		"a vector with constants": {
			body: `const prefix = "seakeep_gate_"
const reason = "reason"
func f() { _ = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + "b_seconds", Help: "Took " + "long."}, []string{reason, "lane"}) }`,
			want: "seakeep_gate_b_seconds histogram [reason lane] Took long.",
		},
		"a function": {
			body: `var g = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "seakeep", Name: "c_bytes", Help: "Held."}, nil)`,
			want: "seakeep_c_bytes gauge [] Held.",
		},
		"a description of a collector": {
			body: `var labels = []string{"verb"}
var d = prometheus.NewDesc("seakeep_x_d_total", "Counted.", labels, nil)`,
			want: "seakeep_x_d_total counter [verb] Counted.",
		},
		"a factory's method": {
			body: `func f(with interface{ NewGauge(prometheus.GaugeOpts) int }) { _ = with.NewGauge(prometheus.GaugeOpts{Name: "seakeep_e_open", Help: "Open."}) }`,
			want: "seakeep_e_open gauge [] Open.",
		},
		"options apart from the call are refused": {
			body:    `var o = prometheus.GaugeOpts{Name: "seakeep_e_open", Help: "Open."}`,
			wantErr: "must stand in the call",
		},
		"a name that is made at run time is refused": {
			body:    `func f(s string) { _ = prometheus.NewCounter(prometheus.CounterOpts{Name: s, Help: "x"}) }`,
			wantErr: "no constant of this package",
		},
		"a metric without help is refused": {
			body:    `var c = prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_x_a_total"})`,
			wantErr: "needs a Name and a Help",
		},
		"a label that grows with the cluster is refused": {
			body:    `var g = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "seakeep_x_open", Help: "Open."}, []string{"pod"})`,
			wantErr: "label pod has no closed set of values",
		},
		"a counter's name ends in _total": {
			body:    `var c = prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_x_things", Help: "Things."})`,
			wantErr: "ends in _total",
		},
		"other calls are no metrics": {
			body: `var r = prometheus.NewRegistry()`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			source := "package p\n\nimport \"github.com/prometheus/client_golang/prometheus\"\n\n" + tc.body + "\n"
			if err := os.WriteFile(filepath.Join(root, "metrics.go"), []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
			metrics, err := collect(root)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got string
			for _, m := range metrics {
				got += m.name + " " + m.kind + " [" + strings.Join(m.labels, " ") + "] " + m.help
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
