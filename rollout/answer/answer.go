// Package answer lets others ask what a rollout knows: an Argo Rollouts analysis by its web provider, Flagger by its webhooks,
// KubeFleet's approval requests by the controller of a hub. It answers from what was last seen, asks no cluster, and changes
// nothing.
package answer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	// Stage is the one asked about, Task whether what comes after it or before it: "after" or "before".
	Stage string `json:"stage,omitempty"`
	Task  string `json:"task,omitempty"`
	// Verdict is the worst of what was asked about. What was not looked at, or not lately, is Unknown.
	Verdict verdict.Verdict `json:"verdict"`
	Reason  string          `json:"reason"`
	At      time.Time       `json:"at,omitzero"`
	// OK is true for Pass, for those who ask for a boolean.
	OK bool `json:"ok"`
}

// The tasks of a stage that are asked about.
const (
	After  = "after"
	Before = "before"
)

// Asked is what is asked about: one cluster, one stage, or, with neither, all that run the change.
type Asked struct {
	Cluster string
	// Stage asks whether what comes after it may begin: it and every stage before it are done, and their clusters pass. With
	// Task Before it asks whether it may begin itself: every stage before it.
	Stage, Task string
}

func askedBy(q url.Values) (Asked, error) {
	about := Asked{Cluster: q.Get("cluster"), Stage: q.Get("stage"), Task: q.Get("task")}
	switch {
	case about.Stage == "" && about.Task != "":
		return about, errors.New("task goes with stage")
	case about.Stage != "" && about.Cluster != "":
		return about, errors.New("cluster and stage do not go together")
	case about.Task != "" && about.Task != After && about.Task != Before:
		return about, fmt.Errorf("task must be %s or %s, got %q", Before, After, about.Task)
	}
	return about, nil
}

// Handler answers:
//
//	GET  /v1/run                                              the run as a whole, as `rollout status -o json`
//	GET  /v1/verdict[?cluster=NAME|?stage=NAME[&task=before]] an Answer; status 200 always: for Argo's web provider, with jsonPath {$.verdict}
//	POST /v1/confirm[?cluster=NAME|?stage=NAME[&task=before]] an Answer; 200 for Pass, 409 for Fail, 425 for Unknown: for Flagger's webhooks
//
// Both answer 404 for a cluster or a stage that the run does not have, and 400 for a question that is none. maxAge is how old a
// look may be; view is asked once a request, from any goroutine.
func Handler(view func() engine.View, maxAge time.Duration, now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/run", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, view()) })
	answer := func(status func(verdict.Verdict) int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			about, err := askedBy(r.URL.Query())
			if err != nil {
				write(w, http.StatusBadRequest, Answer{Verdict: verdict.Unknown, Reason: err.Error()})
				return
			}
			a, found := Of(view(), about, maxAge, now())
			if !found {
				write(w, http.StatusNotFound, a)
				return
			}
			write(w, status(a.Verdict), a)
		}
	}
	mux.HandleFunc("GET /v1/verdict", answer(func(verdict.Verdict) int { return http.StatusOK }))
	mux.HandleFunc("POST /v1/confirm", answer(func(v verdict.Verdict) int {
		switch v {
		case verdict.Pass:
			return http.StatusOK
		case verdict.Fail:
			return http.StatusConflict
		}
		return http.StatusTooEarly
	}))
	return mux
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who has gone does not read an error either
}

// Of says what is known. A run that was stopped or taken back is Fail, whatever its looks say now; found is false when the run
// does not have what is asked about. maxAge is how old a look may be.
func Of(v engine.View, about Asked, maxAge time.Duration, now time.Time) (a Answer, found bool) {
	if about.Stage != "" {
		a, found = ofStage(v, about, maxAge, now)
	} else {
		a, found = ofClusters(v, about.Cluster, maxAge, now)
	}
	switch v.Phase {
	case journal.RollingBack, journal.RolledBack:
		a.Verdict, a.Reason = verdict.Fail, v.Message
	case journal.Paused, journal.Aborted:
		if a.Verdict == verdict.Pass {
			a.Verdict, a.Reason = verdict.Unknown, v.Message
		}
	}
	if !found {
		a.Verdict, a.Reason = verdict.Unknown, "the run has no such cluster"
		if about.Stage != "" {
			a.Reason = "the run has no such stage"
		}
	}
	a.OK = a.Verdict == verdict.Pass
	return a, found
}

func ofClusters(v engine.View, cluster string, maxAge time.Duration, now time.Time) (a Answer, found bool) {
	a = Answer{Run: v.ID, Phase: v.Phase, Cluster: cluster}
	var all []verdict.Verdict
	found = cluster == ""
	seen := map[string]bool{}
	for _, s := range v.Stages {
		for _, l := range s.Legs {
			if cluster != "" && l.Cluster != cluster {
				continue
			}
			found = true
			if seen[l.Cluster] || cluster == "" && l.ExposedNodes == 0 {
				continue
			}
			seen[l.Cluster] = true
			one, why := look(l, maxAge, now)
			all = a.add(all, l, one, why)
		}
	}
	if a.Verdict = verdict.Worst(all...); len(all) == 0 {
		a.Verdict, a.Reason = verdict.Unknown, "nothing runs the change yet"
	}
	return a, found
}

// ofStage asks more than ofClusters: a stage says nothing before all of it was done, however well its first nodes are. What
// fails anywhere fails it.
func ofStage(v engine.View, about Asked, maxAge time.Duration, now time.Time) (a Answer, found bool) {
	a = Answer{Run: v.ID, Phase: v.Phase, Stage: about.Stage, Task: about.Task}
	if a.Task == "" {
		a.Task = After
	}
	var all []verdict.Verdict
	for _, s := range v.Stages {
		if found {
			break
		}
		if found = s.Name == about.Stage; found && a.Task == Before {
			break
		}
		for _, l := range s.Legs {
			one, why := look(l, maxAge, now)
			switch {
			case one == verdict.Fail:
			case l.Skipped != "":
				one, why = verdict.Unknown, "skipped: "+l.Skipped
			case l.Phase != journal.Completed:
				one, why = verdict.Unknown, fmt.Sprintf("stage %s is not done there: %s, step %d of %d", s.Name, l.Phase, min(l.Step, len(l.Steps)), len(l.Steps))
			}
			all = a.add(all, l, one, why)
		}
	}
	if a.Verdict = verdict.Worst(all...); len(all) == 0 {
		a.Verdict, a.Reason = verdict.Unknown, "no stage comes before it"
	}
	if whole, _ := ofClusters(v, "", maxAge, now); whole.Verdict == verdict.Fail {
		a.Verdict, a.Reason, a.At = whole.Verdict, whole.Reason, whole.At
	}
	return a, found
}

// add takes one more cluster's verdict in; the worst one's reason is told.
func (a *Answer) add(all []verdict.Verdict, l engine.LegView, one verdict.Verdict, why string) []verdict.Verdict {
	all = append(all, one)
	if verdict.Worst(all...) == one && (a.Reason == "" || one != verdict.Pass) {
		a.Reason = l.Cluster + ": " + why
		if l.Look != nil {
			a.At = l.Look.At
		}
	}
	return all
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
