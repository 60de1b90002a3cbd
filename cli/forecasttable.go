package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/page"
)

// forecastReport is the output of forecast.
type forecastReport struct {
	Workload       string            `json:"workload,omitempty"`
	MaxUtilization float64           `json:"maxUtilization"`
	Clusters       []forecastRow     `json:"clusters"`
	Samples        []forecast.Sample `json:"samples"`
}

// forecastRow is one cluster at full exposure.
type forecastRow struct {
	Cluster    string              `json:"cluster"`
	Nodes      int                 `json:"nodes"`
	Prediction forecast.Prediction `json:"prediction"`
	Capacity   forecast.Capacity   `json:"capacity"`
	Judgement  forecast.Judgement  `json:"judgement"`
}

func (f *forecastReport) write(w io.Writer, output string, model *forecast.Model) error {
	switch output {
	case "json":
		return writeJSON(w, f, true)
	case "html":
		var clusters []page.Cluster
		for _, row := range f.Clusters {
			clusters = append(clusters, page.Cluster{Name: row.Cluster, Nodes: row.Nodes, Prediction: row.Prediction, Judgement: row.Judgement})
		}
		return page.Write(w, page.Page{Workload: f.Workload, Clusters: clusters, Samples: f.Samples, Model: model, MaxUtilization: f.MaxUtilization})
	}
	return f.table(w)
}

func (f *forecastReport) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLUSTER\tNODES\tKIND\tON ALL NODES\t95 %\tSHARE OF ROOM\tVERDICT")
	for _, row := range f.Clusters {
		shares := map[forecast.Kind]forecast.Share{}
		for _, s := range row.Judgement.Shares {
			shares[s.Kind] = s
		}
		if len(row.Prediction.Kinds) == 0 {
			fmt.Fprintf(t, "%s\t%d\t-\t-\t-\t-\t%s\n", clipped(row.Cluster), row.Nodes, row.Judgement.Outcome)
		}
		first := true
		for _, kind := range forecast.Kinds() {
			i, ok := row.Prediction.Kinds[kind]
			if !ok {
				continue
			}
			name, nodes := clipped(row.Cluster), fmt.Sprint(row.Nodes)
			if !first {
				name, nodes = "", ""
			}
			first = false
			mean, interval, share, verdict := forecast.Number(i.Mean)+kindUnit(kind), forecast.Number(i.Lower)+"–"+forecast.Number(i.Upper), "-", "-"
			if i.Unbounded {
				interval = "≥ " + forecast.Number(i.Lower)
				if i.Lower == 0 {
					mean, interval = "?", "?"
				}
			}
			if s, judged := shares[kind]; judged {
				share, verdict = fmt.Sprintf("%.0f %% (%.0f–%.0f)", 100*s.Mean, 100*s.Lower, 100*s.Upper), string(s.Outcome)
				if i.Unbounded {
					share = fmt.Sprintf("≥ %.0f %%", 100*s.Lower)
				}
				if row.Capacity.Kinds[kind].Advisory {
					verdict += " (advisory)"
				}
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, nodes, kind, mean, interval, share, verdict)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range f.Clusters {
		if _, err := fmt.Fprintf(w, "\n%s: %s. %s\n", clipped(row.Cluster), row.Judgement.Outcome, row.Judgement.Reason); err != nil {
			return err
		}
	}
	return nil
}

func kindUnit(kind forecast.Kind) string {
	if unit := kind.Unit(); unit != "" && unit != string(kind) {
		if unit[0] == '/' {
			return unit
		}
		return " " + unit
	}
	return ""
}
