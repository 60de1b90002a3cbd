// Package answer lets others ask what a rollout knows: an Argo Rollouts analysis by its web provider, Flagger by its webhooks,
// a script that approves for KubeFleet. It answers from what was last seen, asks no cluster, and changes nothing.
package answer

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Answer is what is said about a run, or one cluster of it.
type Answer struct {
	Run   string        `json:"run"`
	Phase journal.Phase `json:"phase"`
	// Cluster is the one asked about, "" for all that run the change.
	Cluster string `json:"cluster,omitempty"`
	// Verdict is the worst of what was asked about. What was not looked at, or not lately, is Unknown.
	Verdict verdict.Verdict `json:"verdict"`
	Reason  string          `json:"reason"`
	At      time.Time       `json:"at,omitzero"`
	// OK is true for Pass, for those who ask for a boolean.
	OK bool `json:"ok"`
}

// Handler answers:
//
//	GET  /v1/run                        the run as a whole, as `rollout status -o json`
//	GET  /v1/verdict[?cluster=NAME]     an Answer; status 200 always: for Argo's web provider, with jsonPath {$.verdict}
//	POST /v1/confirm[?cluster=NAME]     an Answer; 200 for Pass, 409 for Fail, 425 for Unknown: for Flagger's webhooks
//
// maxAge is how old a look may be; view is asked once a request, from any goroutine.
func Handler(view func() engine.View, maxAge time.Duration, now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/run", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, view()) })
	mux.HandleFunc("GET /v1/verdict", func(w http.ResponseWriter, r *http.Request) {
		answer, found := of(view(), r.URL.Query().Get("cluster"), maxAge, now())
		if !found {
			write(w, http.StatusNotFound, answer)
			return
		}
		write(w, http.StatusOK, answer)
	})
	mux.HandleFunc("POST /v1/confirm", func(w http.ResponseWriter, r *http.Request) {
		answer, found := of(view(), r.URL.Query().Get("cluster"), maxAge, now())
		status := map[verdict.Verdict]int{verdict.Pass: http.StatusOK, verdict.Fail: http.StatusConflict}[answer.Verdict]
		switch {
		case !found:
			status = http.StatusNotFound
		case status == 0:
			status = http.StatusTooEarly
		}
		write(w, status, answer)
	})
	return mux
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who has gone does not read an error either
}

// of says what is known. A run that was stopped or taken back is Fail, whatever its looks say now.
func of(v engine.View, cluster string, maxAge time.Duration, now time.Time) (Answer, bool) {
	a := Answer{Run: v.ID, Phase: v.Phase, Cluster: cluster, Verdict: verdict.Unknown}
	var all []verdict.Verdict
	found := cluster == ""
	seen := map[string]bool{}
	for _, s := range v.Stages {
		for _, l := range s.Legs {
			if cluster != "" && l.Cluster != cluster {
				continue
			}
			found = true
			if seen[l.Cluster] || cluster == "" && len(l.Exposed) == 0 {
				continue
			}
			seen[l.Cluster] = true
			one, why := look(l, maxAge, now)
			all = append(all, one)
			if verdict.Worst(all...) == one && (a.Reason == "" || one != verdict.Pass) {
				a.Reason = l.Cluster + ": " + why
				if l.Look != nil {
					a.At = l.Look.At
				}
			}
		}
	}
	if a.Verdict = verdict.Worst(all...); len(all) == 0 {
		a.Reason = "nothing runs the change yet"
	}
	switch v.Phase {
	case journal.RollingBack, journal.RolledBack, journal.Failed:
		a.Verdict, a.Reason = verdict.Fail, v.Message
	case journal.Paused, journal.Aborted:
		if a.Verdict == verdict.Pass {
			a.Verdict, a.Reason = verdict.Unknown, v.Message
		}
	}
	if !found {
		a.Verdict, a.Reason = verdict.Unknown, "the run has no such cluster"
	}
	a.OK = a.Verdict == verdict.Pass
	return a, found
}

func look(l engine.LegView, maxAge time.Duration, now time.Time) (verdict.Verdict, string) {
	switch {
	case l.Failed != "":
		return verdict.Fail, l.Failed
	case l.Look == nil:
		return verdict.Unknown, "it was not looked at yet"
	case now.Sub(l.Look.At) > maxAge:
		return verdict.Unknown, "it was last looked at " + now.Sub(l.Look.At).Round(time.Second).String() + " ago"
	case l.ScaleGate != nil && l.ScaleGate.Verdict == verdict.Fail:
		return verdict.Fail, l.ScaleGate.Reason
	}
	return l.Look.Verdict, l.Look.Why()
}
