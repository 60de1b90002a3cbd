package analysis

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// What is nobody's to read but the metric's server.
const (
	secretHeader = "Bearer header-s3cret"
	secretQuery  = "query-s3cret"
	secretUser   = "user-s3cret"
)

// secretly is a metric of each provider, with secrets in its header, query and user.
func secretly(server string) map[string]v1alpha1.RolloutMetric {
	headers := []v1alpha1.RolloutHeader{{Key: "Authorization", Value: secretHeader}, {Key: "X-API-Key", Value: secretHeader}}
	with := strings.Replace(server, "http://", "http://me:"+secretUser+"@", 1)
	w, p := web(""), prometheus("up")
	w.Provider.Web.URL, w.Provider.Web.Headers = with+"/ask?token="+secretQuery, headers
	p.Provider.Prometheus.Address, p.Provider.Prometheus.Headers = with, headers
	return map[string]v1alpha1.RolloutMetric{"web": w, "prometheus": p}
}

// measureOnce is what is found by one measurement.
func measureOnce(t *testing.T, m v1alpha1.RolloutMetric) verdict.Finding {
	t.Helper()
	analyst := asked(t, m)
	e := engine.Exposure{Cluster: "big", Step: 1, Since: time.Now().Add(-time.Minute)}
	return analyst.askMetrics(t.Context(), analyst.clusters["big"], e, time.Now())[0]
}

func TestHeadersAreForOneHost(t *testing.T) {
	var arrived atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived.Add(1)
		fmt.Fprint(w, "true")
	}))
	defer other.Close()
	var headers atomic.Int32
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == secretHeader && r.Header.Get("X-API-Key") == secretHeader {
			headers.Add(1)
		}
		http.Redirect(w, r, other.URL+r.URL.Path+"?token="+secretQuery, http.StatusTemporaryRedirect)
	}))
	defer first.Close()
	for name, m := range secretly(first.URL) {
		f := measureOnce(t, m)
		if f.Verdict != verdict.Unknown || !strings.Contains(f.Reason, "it redirects to "+other.URL) {
			t.Errorf("%s: %+v", name, f)
		}
		tellsNothing(t, f)
	}
	if arrived.Load() != 0 || headers.Load() == 0 {
		t.Errorf("the other host was asked %d times, the first with its headers %d times", arrived.Load(), headers.Load())
	}

	before := headers.Load()
	hop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-API-Key") == secretHeader {
			headers.Add(1)
		}
		if r.URL.Path == "/here" {
			fmt.Fprint(w, "true")
			return
		}
		http.Redirect(w, r, "/here", http.StatusFound)
	}))
	defer hop.Close()
	if f := measureOnce(t, secretly(hop.URL)["web"]); f.Verdict != verdict.Pass || headers.Load() != before+2 {
		t.Errorf("on the same host: %+v; headers arrived %d times", f, headers.Load()-before)
	}
}

// tellsNothing holds a finding against the secrets, as it is written to the journal and shown by `rollout status -o json`.
func tellsNothing(t *testing.T, f verdict.Finding) {
	t.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "s3cret") {
		t.Errorf("a secret is told: %s", text)
	}
	if len(f.Reason) > 400 {
		t.Errorf("%d bytes are told: %.500s", len(f.Reason), f.Reason)
	}
}

func TestWhatIsToldOfAnAnswer(t *testing.T) {
	vector := func(value string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[` + value + `]}}`
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"long": func(w http.ResponseWriter) { fmt.Fprintf(w, `{"a": %q}`, strings.Repeat("long", 1<<20)) },
		"long, of Prometheus": func(w http.ResponseWriter) {
			fmt.Fprint(w, vector(strings.TrimSuffix(strings.Repeat(`{"metric":{},"value":[1,"7"]},`, 10_000), ",")))
		},
		"a long warning": func(w http.ResponseWriter) {
			fmt.Fprintf(w, `{"status":"success","warnings":[%q],"data":{"resultType":"vector","result":[]}}`, strings.Repeat("warning ", 1000))
		},
		"a long error": func(w http.ResponseWriter) {
			fmt.Fprintf(w, `{"status":"error","errorType":"bad_data","error":%q}`, strings.Repeat("error ", 1000))
		},
		"too long": func(w http.ResponseWriter) {
			fmt.Fprintf(w, `{"status":"success","a":%q}`, strings.Repeat("x", maxAnswer))
		},
		"no JSON":  func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") },
		"a status": func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) },
		"an escape": func(w http.ResponseWriter) {
			fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"\u001b[2J\n"}`)
		},
		"half a letter": func(w http.ResponseWriter) { fmt.Fprintf(w, "%q", strings.Repeat("é", 300)) },
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
			defer server.Close()
			for _, m := range secretly(server.URL) {
				f := measureOnce(t, m)
				if f.Verdict == verdict.Pass || strings.ContainsAny(f.Reason, "\x1b\n") {
					t.Errorf("%+v", f)
				}
				tellsNothing(t, f)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		for _, m := range secretly(server.URL) {
			f := measureOnce(t, m)
			if !strings.Contains(f.Reason, "asking "+server.URL) || !strings.Contains(f.Reason, "refused") {
				t.Errorf("%+v", f)
			}
			tellsNothing(t, f)
		}
	})
	t.Run("no argument", func(t *testing.T) {
		for _, m := range secretly("http://prometheus:9090") {
			if w := m.Provider.Web; w != nil {
				w.Headers[0].Value += "{{args.none}}"
			} else {
				m.Provider.Prometheus.Headers[0].Value += "{{args.none}}"
			}
			_, errs := Check(v1alpha1.RolloutAnalysis{Metrics: []v1alpha1.RolloutMetric{m}}, time.Second, field.NewPath("analysis"), nil)
			if err := errs.ToAggregate(); err == nil || !strings.Contains(err.Error(), "args.none") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v", err)
			}
		}
	})
}

// A machine's own credentials are served on link-local addresses.
func TestLinkLocalIsNotAsked(t *testing.T) {
	for _, server := range []string{"http://169.254.169.254", "http://[fe80::1]:80", "http://[::ffff:169.254.169.254]:80"} {
		m := web("")
		m.Provider.Web.URL = server + "/latest/meta-data/"
		if f := measureOnce(t, m); f.Verdict != verdict.Unknown || !strings.Contains(f.Reason, "link-local") {
			t.Errorf("%s: %+v", server, f)
		}
	}
}

// Whatever a server answers and a path asks for, what is told is short and one line.
func FuzzWebAnswer(f *testing.F) {
	f.Add("{$.data.ok}", `{"data":{"ok":true}}`, "result == true")
	f.Add("{$..a[?(@.b>1)].c}", `{"a":[{"b":2,"c":[1,null,{"x":"\u001b"}]}]}`, "len(result) > 0")
	f.Add("{range .items[*]}{.a}{end}", `{"items":[{"a":1},{"a":"2"}]}`, "asInt(result[0]) < 3")
	f.Add("{.a[-1:]}", `{"a":[]}`, "default(result, 0) == 0")
	f.Fuzz(func(t *testing.T, path, answer, condition string) {
		var value any
		if err := json.Unmarshal([]byte(answer), &value); err != nil || len(answer) > 1<<12 {
			return
		}
		m := Metric{Spec: v1alpha1.RolloutMetric{Provider: v1alpha1.RolloutMetricProvider{Web: &v1alpha1.RolloutWeb{JSONPath: path}}}}
		if path != "" {
			m.path = jsonpath.New("metric")
			if err := m.path.Parse(path); err != nil {
				return
			}
		}
		success, err := verdict.ParseCondition(condition)
		if err != nil {
			return
		}
		result, err := m.pick(value)
		taken := verdict.Conditions{Success: success}.Measure(time.Time{}, result, err)
		if taken.Phase == "" || len(taken.Value) > 200 || strings.ContainsAny(taken.Value, "\n\x1b") {
			t.Errorf("%+v", taken)
		}
	})
}

// Whatever a URL is, its user, password and query are not told.
func FuzzPlace(f *testing.F) {
	f.Add("https://me:pw@host/path?token=x#y")
	f.Add("https://host:x")
	f.Add("a:b@c")
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(place(raw))
		if err == nil && (u.User != nil || u.RawQuery != "" || u.Fragment != "") {
			t.Errorf("%q is told as %q", raw, place(raw))
		}
	})
}

// A header's value may be in a file, which is renewed while a run takes days.
func TestHeaderFromAFile(t *testing.T) {
	var sent string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		fmt.Fprint(w, "true")
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := web("")
	m.Provider.Web.URL = server.URL
	m.Provider.Web.Headers = []v1alpha1.RolloutHeader{{Key: "Authorization", ValueFrom: &v1alpha1.RolloutHeaderSource{File: file}}}
	check := func() ([]Metric, error) {
		a := v1alpha1.RolloutAnalysis{Metrics: []v1alpha1.RolloutMetric{m}}
		a.SetDefaults(time.Second)
		metrics, errs := Check(a, time.Second, field.NewPath("analysis"), os.ReadFile)
		return metrics, errs.ToAggregate()
	}
	refused := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
	_, err := check()
	refused("analysis.metrics[0].provider.web.headers: Invalid value: reading the value of header Authorization: open "+file, err)
	write(secretHeader + "-1\n")
	metrics, err := check()
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := metrics[0].result(t.Context(), "big", time.Now())
		return err
	}
	for _, value := range []string{secretHeader + "-1", secretHeader + "-2"} {
		write(value + "\n")
		if err := ask(); err != nil || sent != value {
			t.Errorf("%q was sent, %v", sent, err)
		}
	}
	write(secretHeader + "\nX-Other: " + secretHeader)
	refused("on one line", ask())
	write("\n")
	refused("on one line", ask())
	write(secretHeader + "\x00")
	refused("invalid header field value", ask())
	// What is kept of the metric is the name.
	if text, err := json.Marshal(metrics[0].Spec); err != nil || strings.Contains(string(text), "s3cret") || !strings.Contains(string(text), file) {
		t.Errorf("kept: %s, %v", text, err)
	}
}
