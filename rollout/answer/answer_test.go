package answer

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
		return engine.LegView{Cluster: cluster, ClusterView: engine.ClusterView{Exposed: exposed, Look: &look}}
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
	w := httptest.NewRecorder()
	Handler(func() engine.View { return view(journal.Running) }, time.Minute, time.Now).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/run", nil))
	if w.Code != 200 {
		t.Errorf("the run: %d", w.Code)
	}
}
