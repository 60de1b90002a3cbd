package recorded

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

var start = time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)

// logged is one line of an API server's audit log.
func logged(id int, user, uri, verb, stage string, received, ended time.Time) string {
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"%d","stage":%q,"requestURI":%q,"verb":%q,`+
		`"user":{"username":%q,"groups":["system:authenticated"]},"sourceIPs":["10.1.2.3"],"userAgent":"agent/v1.2.3 (linux/amd64) %08x0",`+
		`"objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":%q,"stageTimestamp":%q}`+"\n",
		id, stage, uri, verb, user, id, received.Format(time.RFC3339Nano), ended.Format(time.RFC3339Nano))
}

func configured(t *testing.T, rules ...v1alpha1.LimitRule) *v1alpha1.GateConfiguration {
	t.Helper()
	c := &v1alpha1.GateConfiguration{Limits: rules, DefaultLimits: v1alpha1.Disabled}
	c.SetDefaults()
	return c
}

func places(name string, n int, m v1alpha1.LimitMatch) v1alpha1.LimitRule {
	return v1alpha1.LimitRule{Name: name, Match: m, Action: v1alpha1.LimitThrottle, Throttle: &v1alpha1.Throttle{Concurrency: &n}}
}

func judged(t *testing.T, c *v1alpha1.GateConfiguration, texts ...string) *Report {
	t.Helper()
	var sources []Source
	for i, text := range texts {
		sources = append(sources, Source{fmt.Sprint("log-", i), strings.NewReader(text)})
	}
	r, err := Judge(Options{Config: c}, sources)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const list = "/api/v1/pods?limit=500"

// Ten LISTs at once, of two seconds each, before two places: two run, nobody gets a place within a second, eight are turned away.
// Lines stand in the order in which requests end, in two logs.
func TestJudge(t *testing.T) {
	var logs [2]strings.Builder
	for i := range 10 {
		at := start.Add(time.Duration(i) * time.Millisecond)
		logs[i%2].WriteString(logged(i, "system:serviceaccount:a:agent", list, "list", "ResponseComplete", at, at.Add(2*time.Second+time.Duration(10-i)*10*time.Millisecond)))
	}
	logs[0].WriteString(logged(20, "jane", "/api/v1/namespaces/default/pods/x", "get", "ResponseComplete", start.Add(time.Minute), start.Add(time.Minute)))
	r := judged(t, configured(t, places("lists", 2, v1alpha1.LimitMatch{Verbs: []string{"list"}})), logs[0].String(), logs[1].String())
	if r.Judged != 11 || r.Rejected != 8 || len(r.Clients) != 1 || r.Clients[0].Count != 8 || r.Late != 0 {
		t.Fatalf("%+v", r)
	}
	if c := r.Clients[0]; c.UserAgent != "agent/v1.2.3 (linux/amd64) *" || c.Reason != "concurrency" || c.First.Sub(start) < time.Second || c.Last.Sub(start) > 2*time.Second {
		t.Errorf("%+v", c)
	}
	if len(r.Rules) != 1 || r.Rules[0].Matched != 10 || r.Rules[0].Rejected != 8 {
		t.Errorf("%+v", r.Rules)
	}
	if !r.First.Equal(start) || !r.Last.Equal(start.Add(time.Minute)) {
		t.Errorf("from %v to %v", r.First, r.Last)
	}
}

// A place that becomes free within a second is waited for.
func TestJudgeWaits(t *testing.T) {
	var b strings.Builder
	for i := range 20 {
		b.WriteString(logged(i, "u", list, "list", "ResponseComplete", start, start.Add(50*time.Millisecond)))
	}
	if r := judged(t, configured(t, places("lists", 1, v1alpha1.LimitMatch{})), b.String()); r.Rejected != 0 {
		t.Errorf("%+v", r.Clients)
	}
	if r := judged(t, configured(t, places("lists", 1, v1alpha1.LimitMatch{})), strings.ReplaceAll(b.String(), ".05Z", ".1Z")); r.Rejected == 0 {
		t.Error("twenty times 100ms pass one place within a second")
	}
}

func TestJudgePassesOver(t *testing.T) {
	text := logged(1, "u", list, "list", "RequestReceived", start, start) +
		logged(2, "system:apiserver", list, "list", "ResponseComplete", start, start) +
		logged(3, "u", list+"&watch=true", "watch", "ResponseStarted", start, start) +
		logged(4, "u", list, "list", "ResponseStarted", start, start) +
		logged(4, "u", list, "list", "ResponseComplete", start, start.Add(time.Second)) +
		logged(3, "u", list+"&watch=true", "watch", "ResponseComplete", start, start.Add(5*time.Minute)) +
		logged(5, "u", list+"&watch=true", "watch", "ResponseComplete", start, start.Add(5*time.Minute)) +
		"\n{not json\n" + `{"kind":"Event","apiVersion":"audit.k8s.io/v1"}` + "\n" +
		`{"kind":"Event","x":"` + strings.Repeat("x", maxLine) + "\"}\n" +
		logged(6, "u", "://", "list", "ResponseComplete", start, start) + logged(7, "u", "/x", "conjure", "ResponseComplete", start, start)
	r := judged(t, configured(t, v1alpha1.LimitRule{Name: "no", Action: v1alpha1.LimitDeny}), text)
	if r.Judged != 3 || r.Rejected != 3 || r.Own != 1 || r.OtherStages != 3 || r.Malformed != 4 || r.TooLong != 1 || !strings.HasPrefix(r.FirstMalformed, "log-0:8: ") {
		t.Errorf("%+v", r)
	}
}

func TestJudgeReadsGzip(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, logged(1, "u", list, "list", "ResponseComplete", start, start.Add(time.Second)))
	_ = z.Flush()
	whole := append(bytes.Clone(b.Bytes()), 0)
	_ = z.Close()
	c := configured(t)
	if r, err := Judge(Options{Config: c}, []Source{{"a.gz", &b}}); err != nil || r.Judged != 1 || len(r.Truncated) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Judge(Options{Config: c}, []Source{{"torn.gz", bytes.NewReader(whole[:len(whole)-1])}}); err != nil || r.Judged != 1 || len(r.Truncated) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Judge(Options{Config: c}, []Source{{"no.gz", strings.NewReader("\x1f\x8bno")}}); err == nil {
		t.Error("no error for what is no gzip")
	}
}

// The default budget is judged where its size is known; what a log cannot tell is said.
func TestJudgeBudgetsAndWhatIsNotJudged(t *testing.T) {
	c := configured(t)
	c.DefaultLimits = v1alpha1.Enabled
	c.Budgets = &v1alpha1.GateBudgets{Default: "seats=0.1"}
	c.SetDefaults()
	var b strings.Builder
	for i := range 60 {
		at := start.Add(time.Duration(i) * time.Second)
		b.WriteString(logged(i, "system:serviceaccount:a:agent", "/api/v1/namespaces/a/pods/x", "get", "ResponseComplete", at, at.Add(time.Second)))
	}
	r := judged(t, c, b.String())
	if len(r.Unjudged) == 0 || r.Rejected < 40 || r.Rejected > 58 || r.Rules[0].Rule != "api-budget" {
		t.Errorf("%d rejected, %v, %+v", r.Rejected, r.Unjudged, r.Rules[0])
	}
	c.Budgets.Default = "seats-per-node=0.1"
	if r := judged(t, c, b.String()); r.Rejected != 0 || !strings.Contains(strings.Join(r.Unjudged, " "), "clamp.nodes") {
		t.Errorf("%+v", r)
	}
}

// Who was refused by the API server has no name in its log; a gate goes by the address.
func TestJudgeNamesWhoWasRefused(t *testing.T) {
	text := logged(1, "", list, "list", "ResponseComplete", start, start) + logged(2, "system:anonymous", list, "list", "ResponseComplete", start, start)
	r := judged(t, configured(t, v1alpha1.LimitRule{Name: "no", Action: v1alpha1.LimitDeny}), text)
	if r.Malformed != 0 || len(r.Clients) != 1 || r.Clients[0].Count != 2 || r.Clients[0].User != "unverified:10.1.2.3" {
		t.Errorf("%+v", r)
	}
}

// Memory is bounded by what runs at the same time, not by the log.
func TestJudgeHoldsLittle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	j := &judge{report: &Report{}, begun: map[string]bool{}}
	j.engine = newEngine(func() time.Time { return j.now })
	most := 0
	for i := range 50_000 {
		end := start.Add(time.Duration(i) * 100 * time.Millisecond)
		e, err := parse([]byte(logged(i, "u", list, "list", "ResponseComplete", end.Add(-time.Duration(random.Int64N(int64(30*time.Second)))), end)))
		if err != nil {
			t.Fatal(err)
		}
		j.take(e)
		most = max(most, len(j.held)+len(j.running))
	}
	if most > 2000 {
		t.Errorf("%d requests are held", most)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(logged(1, "u", list, "list", "ResponseComplete", start, start.Add(time.Second))))
	f.Add([]byte(logged(1, "system:anonymous", "/apis/apps/v1/namespaces/a/deployments/b/scale?x=%zz", "patch", "Panic", start, start)))
	f.Add([]byte(logged(1, "u", "/api/v1/namespaces/a/pods/b/exec?command=sh", "connect", "ResponseStarted", start, start)))
	f.Add([]byte(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","user":{"username":"u"},"requestURI":"*"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parse(data)
		if (e == nil) == (err == nil) {
			t.Fatalf("%+v and %v", e, err)
		}
		if e == nil {
			return
		}
		if e.flow == nil || e.flow.Caller.User == "" || e.ended.Before(e.received) {
			t.Fatalf("%+v", e)
		}
		j := &judge{report: &Report{}, begun: map[string]bool{}}
		j.engine = newEngine(func() time.Time { return j.now })
		j.take(e)
		j.release(time.Time{})
		j.finish()
	})
}
