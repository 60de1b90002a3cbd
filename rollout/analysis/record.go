package analysis

import (
	"time"

	"github.com/seakeep/seakeep/rollout/verdict"
)

// Record is what was measured at one look at one cluster, before anything was made of it. A run's records can be judged again, with
// other bounds, or with what happened later known.
type Record struct {
	Cluster string    `json:"cluster"`
	At      time.Time `json:"at"`
	// Levels are figures of the control plane by check, in seconds, bytes and ratios.
	Levels map[string]float64 `json:"levels,omitempty"`
	// Asked are the questions to DNS and the API by check and whom.
	Asked map[string]verdict.Asked `json:"asked,omitempty"`
	// Executed is for how many seconds requests executed since the look before, Own those of the component.
	Executed float64 `json:"executed,omitempty"`
	Own      float64 `json:"own,omitempty"`
	// Troubles are why something could not be measured.
	Troubles []string `json:"troubles,omitempty"`
	// Workload is what was seen of the pods and their nodes; nil when nobody looked.
	Workload *verdict.Workload `json:"workload,omitempty"`
}

func (r reading) record(cluster string, w *verdict.Workload) Record {
	return Record{Cluster: cluster, At: r.at, Levels: r.levels, Asked: r.asked, Executed: r.executed, Own: r.own, Troubles: r.troubles, Workload: w}
}

func (r Record) reading() reading {
	return reading{at: r.At, done: r.At, levels: r.Levels, asked: r.Asked, executed: r.Executed, own: r.Own, troubles: r.Troubles}
}
