package answer

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

func TestAnswers(t *testing.T) {
	now := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	leg := func(cluster string, v verdict.Verdict, age time.Duration, exposed ...string) engine.LegView {
		look := verdict.Of(now.Add(-age), verdict.Finding{Check: "c", Verdict: v, Reason: "because"})
		return engine.LegView{Cluster: cluster, ClusterView: engine.ClusterView{ExposedNodes: len(exposed), Exposed: exposed, Look: &look}}
	}
	view := func(phase journal.Phase, legs ...engine.LegView) engine.View {
		return engine.View{ID: "run-1", Phase: phase, Message: "the message", Stages: []engine.StageView{{Name: "s", Legs: legs}}}
	}
	tests := map[string]struct {
		view   engine.View
		query  string
		want   verdict.Verdict
		reason string
		status int // of confirm
	}{
		"well":                     {view(journal.Running, leg("a", verdict.Pass, time.Second, "n")), "", verdict.Pass, "a: c: because", 200},
		"one fails":                {view(journal.Running, leg("a", verdict.Pass, 0, "n"), leg("b", verdict.Fail, 0, "n")), "", verdict.Fail, "b: c: because", 409},
		"the other one":            {view(journal.Running, leg("a", verdict.Pass, 0, "n"), leg("b", verdict.Fail, 0, "n")), "?cluster=a", verdict.Pass, "a: c: because", 200},
		"too old":                  {view(journal.Running, leg("a", verdict.Pass, time.Hour, "n")), "", verdict.Unknown, "a: it was last looked at 1h0m0s ago", 425},
		"nothing runs it":          {view(journal.Running, leg("a", verdict.Pass, 0)), "", verdict.Unknown, "nothing runs the change yet", 425},
		"not looked at":            {view(journal.Running, engine.LegView{Cluster: "a"}), "?cluster=a", verdict.Unknown, "a: it was not looked at yet", 425},
		"paused":                   {view(journal.Paused, leg("a", verdict.Pass, 0, "n")), "", verdict.Unknown, "the message", 425},
		"taken back, and well now": {view(journal.RolledBack, leg("a", verdict.Pass, 0, "n")), "", verdict.Fail, "the message", 409},
		"no such cluster":          {view(journal.Running, leg("a", verdict.Pass, 0, "n")), "?cluster=x", verdict.Unknown, "the run has no such cluster", 404},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			handler := Handler(func() engine.View { return test.view }, time.Minute, func() time.Time { return now })
			ask := func(method, path string) (int, Answer) {
				t.Helper()
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(method, path+test.query, nil))
				var a Answer
				if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
					t.Fatal(err)
				}
				return w.Code, a
			}
			code, a := ask(http.MethodGet, "/v1/verdict")
			if a.Verdict != test.want || a.Reason != test.reason || a.OK != (test.want == verdict.Pass) || (code != 200) != (test.status == 404) {
				t.Errorf("answered %d %+v", code, a)
			}
			if code, _ := ask(http.MethodPost, "/v1/confirm"); code != test.status {
				t.Errorf("confirm answers %d, want %d", code, test.status)
			}
		})
	}
	for _, query := range []string{"?task=before", "?cluster=a&stage=s", "?stage=s&task=during"} {
		w := httptest.NewRecorder()
		Handler(func() engine.View { return view(journal.Running, leg("a", verdict.Pass, 0, "n")) }, time.Minute, time.Now).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/confirm"+query, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s is answered %d", query, w.Code)
		}
	}
	w := httptest.NewRecorder()
	Handler(func() engine.View { return view(journal.Running) }, time.Minute, time.Now).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/run", nil))
	if w.Code != 200 {
		t.Errorf("the run: %d", w.Code)
	}
}

// A stage passes when it and all before it are done, and looked at lately; what fails anywhere fails it.
func TestAnswersOfStages(t *testing.T) {
	now := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	leg := func(cluster string, phase journal.Phase, v verdict.Verdict, age time.Duration) engine.LegView {
		look := verdict.Of(now.Add(-age), verdict.Finding{Check: "c", Verdict: v, Reason: "because"})
		return engine.LegView{Cluster: cluster, Phase: phase, Step: 2, Steps: []int{1, 3, 9}, ClusterView: engine.ClusterView{ExposedNodes: 1, Look: &look}}
	}
	stages := func(legs ...[]engine.LegView) (v engine.View) {
		v.ID, v.Phase, v.Message = "run-1", journal.Running, "the message"
		for i, l := range legs {
			v.Stages = append(v.Stages, engine.StageView{Name: string(rune('p' + i)), Legs: l})
		}
		return v
	}
	done := func(cluster string) engine.LegView { return leg(cluster, journal.Completed, verdict.Pass, 0) }
	skipped, failed, waiting := done("b"), done("b"), leg("b", journal.Waiting, verdict.Fail, 0)
	skipped.Skipped, failed.Failed, waiting.ExposedNodes = "no answer", "it broke", 0
	paused := stages([]engine.LegView{done("a")})
	paused.Phase = journal.Paused
	back := stages([]engine.LegView{done("a")})
	back.Phase = journal.RollingBack
	two := []engine.LegView{done("a"), done("b")}
	for name, test := range map[string]struct {
		view   engine.View
		about  Asked
		want   verdict.Verdict
		reason string
	}{
		"done and well":                {stages(two), Asked{Stage: "p"}, verdict.Pass, "a: c: because"},
		"one is not done":              {stages([]engine.LegView{done("a"), leg("b", journal.Baking, verdict.Pass, 0)}), Asked{Stage: "p"}, verdict.Unknown, "b: stage p is not done there: Baking, step 2 of 3"},
		"one was looked at long ago":   {stages([]engine.LegView{done("a"), leg("b", journal.Completed, verdict.Pass, time.Hour)}), Asked{Stage: "p"}, verdict.Unknown, "b: it was last looked at 1h0m0s ago"},
		"one is skipped":               {stages([]engine.LegView{done("a"), skipped}), Asked{Stage: "p"}, verdict.Unknown, "b: skipped: no answer"},
		"one failed within its budget": {stages([]engine.LegView{done("a"), failed}), Asked{Stage: "p"}, verdict.Fail, "b: it broke"},
		"the stage before is stale":    {stages([]engine.LegView{leg("a", journal.Completed, verdict.Pass, time.Hour)}, []engine.LegView{done("b")}), Asked{Stage: "q"}, verdict.Unknown, "a: it was last looked at 1h0m0s ago"},
		"a later one is not done":      {stages([]engine.LegView{done("a")}, []engine.LegView{leg("b", journal.Stepping, verdict.Unknown, 0)}), Asked{Stage: "p"}, verdict.Pass, "a: c: because"},
		"a later one fails":            {stages([]engine.LegView{done("a")}, []engine.LegView{leg("b", journal.Stepping, verdict.Fail, 0)}), Asked{Stage: "p"}, verdict.Fail, "b: c: because"},
		"what has not begun fails":     {stages([]engine.LegView{done("a")}, []engine.LegView{waiting}), Asked{Stage: "p"}, verdict.Pass, "a: c: because"},
		"before the second":            {stages([]engine.LegView{done("a")}, []engine.LegView{waiting}), Asked{Stage: "q", Task: Before}, verdict.Pass, "a: c: because"},
		"before the second, too soon":  {stages([]engine.LegView{leg("a", journal.Baking, verdict.Pass, 0)}, []engine.LegView{waiting}), Asked{Stage: "q", Task: Before}, verdict.Unknown, "a: stage p is not done there: Baking, step 2 of 3"},
		"before the first":             {stages(two), Asked{Stage: "p", Task: Before}, verdict.Unknown, "no stage comes before it"},
		"no such stage":                {stages(two), Asked{Stage: "x"}, verdict.Unknown, "the run has no such stage"},
		"nothing is planned":           {engine.View{ID: "run-1", Phase: journal.Running}, Asked{Stage: "p"}, verdict.Unknown, "the run has no such stage"},
		"paused":                       {paused, Asked{Stage: "p"}, verdict.Unknown, "the message"},
		"taken back":                   {back, Asked{Stage: "p"}, verdict.Fail, "the message"},
	} {
		t.Run(name, func(t *testing.T) {
			a, found := Of(test.view, test.about, time.Minute, now)
			if a.Verdict != test.want || a.Reason != test.reason || a.OK != (test.want == verdict.Pass) || found == (test.reason == "the run has no such stage") {
				t.Errorf("answered %+v, %v", a, found)
			}
		})
	}
}

// Whatever is asked, the answer is one of those that are documented, a Pass only of what passes, and nothing changes.
func FuzzQuestion(f *testing.F) {
	now := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	look := verdict.Of(now, verdict.Finding{Check: "c", Verdict: verdict.Pass, Reason: "because"})
	bad := verdict.Of(now, verdict.Finding{Check: "c", Verdict: verdict.Fail, Reason: "because"})
	view := engine.View{ID: "run-1", Phase: journal.Running, Stages: []engine.StageView{
		{Name: "p", Legs: []engine.LegView{{Cluster: "a", Phase: journal.Completed, ClusterView: engine.ClusterView{ExposedNodes: 1, Look: &look}}}},
		{Name: "q", Legs: []engine.LegView{{Cluster: "b", Phase: journal.Baking, ClusterView: engine.ClusterView{Look: &bad}}}},
	}}
	handler := Handler(func() engine.View { return view }, time.Minute, func() time.Time { return now })
	f.Add("GET", "/v1/verdict", "cluster=a", "")
	f.Add("GET", "/v1/verdict", "stage=q&task=before", "")
	f.Add("POST", "/v1/confirm", "stage=q", `{"name":"web","namespace":"prod","phase":"Progressing","checksum":"1","metadata":{}}`)
	f.Add("POST", "/v1/confirm", "cluster=a&cluster=b&stage=%zz;", "")
	f.Add("GET", "/v1/run", "", "")
	f.Add("DELETE", "/v1/../v1/run", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		target := &url.URL{Path: path, RawQuery: query}
		r, err := http.NewRequest(method, "http://localhost"+target.String(), strings.NewReader(body))
		if err != nil || r.URL.Host != "localhost" {
			return
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if strings.HasPrefix(r.URL.Path, "/v1/") && w.Header().Get("Content-Type") == "application/json" && r.URL.Path != "/v1/run" {
			var a Answer
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
				t.Fatalf("%d: %s: %v", w.Code, w.Body, err)
			}
			about, err := askedBy(r.URL.Query())
			pass := err == nil && (about == Asked{} || about.Cluster == "a" || about.Stage == "p" && about.Task != Before || about.Stage == "q" && about.Task == Before)
			if a.OK != (a.Verdict == verdict.Pass) || a.OK != pass {
				t.Errorf("%+v is answered %d %+v", about, w.Code, a)
			}
		}
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusTooEarly, http.StatusMethodNotAllowed, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		default:
			t.Errorf("%s %s is answered %d", method, target, w.Code)
		}
	})
}
