package analysis

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

func prometheus(query string) v1alpha1.RolloutMetric {
	return v1alpha1.RolloutMetric{Name: "m", SuccessCondition: "result[0] < 1", Provider: v1alpha1.RolloutMetricProvider{Prometheus: &v1alpha1.RolloutPrometheus{Address: "http://prometheus:9090", Query: query}}}
}

func web(jsonPath string) v1alpha1.RolloutMetric {
	return v1alpha1.RolloutMetric{Name: "m", SuccessCondition: "result == true", Provider: v1alpha1.RolloutMetricProvider{Web: &v1alpha1.RolloutWeb{URL: "http://gate/{{args.cluster}}", JSONPath: jsonPath}}}
}

func TestCheck(t *testing.T) {
	files := map[string]string{"bad.yaml": "kind: AnalysisTemplate\n", "good.yaml": argoDocs}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	change := func(m v1alpha1.RolloutMetric, f func(*v1alpha1.RolloutMetric)) v1alpha1.RolloutMetric {
		f(&m)
		return m
	}
	for name, tc := range map[string]struct {
		metrics   []v1alpha1.RolloutMetric
		templates []string
		want      []string // the fields refused
	}{
		"a query":                       {metrics: []v1alpha1.RolloutMetric{prometheus(`sum(rate(errors{cluster="{{ args.cluster }}"}[5m])) / {{args.of}}`)}},
		"a URL":                         {metrics: []v1alpha1.RolloutMetric{web("{$.ok}")}},
		"invalid PromQL":                {metrics: []v1alpha1.RolloutMetric{prometheus("sum(rate(errors[5m])")}, want: []string{"analysis.metrics[0].provider.prometheus.query"}},
		"an unknown function":           {metrics: []v1alpha1.RolloutMetric{prometheus("mean(errors)")}, want: []string{"analysis.metrics[0].provider.prometheus.query"}},
		"a range":                       {metrics: []v1alpha1.RolloutMetric{prometheus("errors[5m]")}, want: []string{"analysis.metrics[0].provider.prometheus.query"}},
		"a string":                      {metrics: []v1alpha1.RolloutMetric{prometheus(`"x"`)}, want: []string{"analysis.metrics[0].provider.prometheus.query"}},
		"an argument that nobody gives": {metrics: []v1alpha1.RolloutMetric{prometheus("errors > {{args.limit}}")}, want: []string{"analysis.metrics[0].provider.prometheus.query", "analysis.metrics[0].provider.prometheus.query"}},
		"an expression":                 {metrics: []v1alpha1.RolloutMetric{change(prometheus("up"), func(m *v1alpha1.RolloutMetric) { m.FailureCondition = "result[0] >" })}, want: []string{"analysis.metrics[0].failureCondition"}},
		"an unknown name":               {metrics: []v1alpha1.RolloutMetric{change(prometheus("up"), func(m *v1alpha1.RolloutMetric) { m.SuccessCondition = "nope(result)" })}, want: []string{"analysis.metrics[0].successCondition"}},
		"a JSON path":                   {metrics: []v1alpha1.RolloutMetric{web("{$.ok")}, want: []string{"analysis.metrics[0].provider.web.jsonPath"}},
		"a scalar compared":             {metrics: []v1alpha1.RolloutMetric{change(prometheus("scalar(up)"), func(m *v1alpha1.RolloutMetric) { m.SuccessCondition, m.Compare = "", &v1alpha1.RolloutMetricCompare{} })}, want: []string{"analysis.metrics[0].provider.prometheus.query"}},
		"a template":                    {templates: []string{"good.yaml"}},
		"no such file":                  {templates: []string{"none.yaml"}, want: []string{"analysis.templates[0]"}},
		"a bad file":                    {templates: []string{"bad.yaml"}, want: []string{"analysis.templates[0] (bad.yaml): kind"}},
		"the same name twice":           {metrics: []v1alpha1.RolloutMetric{change(prometheus("up"), func(m *v1alpha1.RolloutMetric) { m.Name = "success-rate" })}, templates: []string{"good.yaml"}, want: []string{"analysis.templates[0] (good.yaml): spec.metrics[0].name"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := v1alpha1.RolloutAnalysis{Metrics: tc.metrics, Templates: tc.templates, Args: []v1alpha1.RolloutMetricArg{{Name: "of", Value: "3"}, {Name: "service-name", Value: "web"}}}
			a.SetDefaults(time.Minute)
			_, errs := Check(a, time.Minute, field.NewPath("analysis"), read)
			var fields []string
			for _, err := range errs {
				fields = append(fields, err.Field)
			}
			if diff := cmp.Diff(tc.want, fields); diff != "" {
				t.Errorf("refused (-want +got):\n%s\n%v", diff, errs.ToAggregate())
			}
		})
	}
}

// argoDocs is of Argo Rollouts' documentation, "Analysis & Progressive Delivery", as it stands there.
const argoDocs = `apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata:
  name: success-rate
spec:
  args:
  - name: service-name
  - name: prometheus-port
    value: "9090"
  metrics:
  - name: success-rate
    interval: 5m
    # NOTE: prometheus queries return results in the form of a vector.
    # So it is common to access the index 0 of the returned array to obtain the value
    successCondition: result[0] >= 0.95
    failureLimit: 3
    provider:
      prometheus:
        address: "http://prometheus.example.com:{{args.prometheus-port}}"
        query: |
          sum(irate(
            istio_requests_total{reporter="source",destination_service=~"{{args.service-name}}",response_code!~"5.*"}[5m]
          )) /
          sum(irate(
            istio_requests_total{reporter="source",destination_service=~"{{args.service-name}}"}[5m]
          ))
`

func TestParseTemplates(t *testing.T) {
	metrics, errs := ParseTemplates([]byte(argoDocs), map[string]string{"service-name": "web"}, time.Minute)
	if len(errs) > 0 || len(metrics) != 1 {
		t.Fatal(errs.ToAggregate())
	}
	m := metrics[0]
	if m.Name != "success-rate" || m.Interval.Duration != 5*time.Minute || m.FailureLimit != 3 || *m.ConsecutiveErrorLimit != 4 || m.Count != 0 {
		t.Errorf("read %+v", m)
	}
	if p := m.Provider.Prometheus; p.Address != "http://prometheus.example.com:9090" || !strings.Contains(p.Query, `destination_service=~"web"`) {
		t.Errorf("read %+v", p)
	}

	const head = "apiVersion: argoproj.io/v1alpha1\nkind: ClusterAnalysisTemplate\nspec:\n"
	const metric = "  metrics:\n  - name: m\n    successCondition: result > 0\n"
	const query = "    provider:\n      prometheus:\n        address: http://p\n        query: up\n"
	for name, tc := range map[string]struct {
		text string
		want string // the field refused; "" none
	}{
		"several documents, and once": {head + metric + query + "---\n# nothing\n---\n" + head + strings.Replace(metric, "name: m", "name: n", 1) + query, ""},
		"numbers as arguments":        {head + "  args:\n  - name: runs\n    value: \"2\"\n" + metric + "    count: \"{{args.runs}}\"\n    failureLimit: 1\n    interval: 30s\n" + query, ""},
		"a dry run":                   {head + "  dryRun:\n  - metricName: m.*\n" + metric + query, ""},
		"empty authentication":        {head + metric + query + "        authentication:\n          sigv4: {}\n          oauth2: {}\n", ""},
		"web":                         {head + metric + "    provider:\n      web:\n        url: https://x\n        jsonPath: \"{$.ok}\"\n        method: POST\n        jsonBody:\n          a: 1\n        timeoutSeconds: 20\n", ""},
		"another provider":            {head + metric + "    provider:\n      datadog:\n        query: x\n", "document"},
		"a misspelt limit":            {head + metric + "    failuresLimit: 1\n" + query, "document"},
		"no provider":                 {head + metric, "spec.metrics[0].provider"},
		"no condition":                {head + "  metrics:\n  - name: m\n" + query, "spec.metrics[0].successCondition"},
		"a range query":               {head + metric + query + "        rangeQuery:\n          start: \"1\"\n", "spec.metrics[0].provider.prometheus.rangeQuery"},
		"SigV4":                       {head + metric + query + "        authentication:\n          sigv4:\n            region: eu\n", "spec.metrics[0].provider.prometheus.authentication"},
		"a secret":                    {head + "  args:\n  - name: token\n    valueFrom:\n      secretKeyRef:\n        name: s\n        key: k\n" + metric + query, "spec.args[0].valueFrom"},
		"no value":                    {head + "  args:\n  - name: token\n" + metric + query, "spec.args[0]"},
		"no interval":                 {head + metric + "    interval: often\n" + query, "spec.metrics[0].interval"},
		"no number":                   {head + metric + "    count: many\n" + query, "spec.metrics[0].count"},
		"templates of them":           {head + "  templates:\n  - templateName: other\n" + metric + query, "spec.templates"},
		"another kind":                {"apiVersion: v1\nkind: ConfigMap\n", "kind"},
		"nothing":                     {"# nothing\n", "spec.metrics"},
		"no YAML":                     {"a: [", "document"},
	} {
		t.Run(name, func(t *testing.T) {
			metrics, errs := ParseTemplates([]byte(tc.text), nil, time.Minute)
			switch {
			case tc.want == "" && (len(errs) > 0 || len(metrics) == 0):
				t.Errorf("refused: %v", errs.ToAggregate())
			case tc.want != "" && (len(errs) != 1 || errs[0].Field != tc.want):
				t.Errorf("want %s refused, got %v", tc.want, errs.ToAggregate())
			}
		})
	}
}

func FuzzParseTemplates(f *testing.F) {
	f.Add([]byte(argoDocs))
	f.Add([]byte("apiVersion: argoproj.io/v1alpha1\nkind: AnalysisTemplate\nspec:\n  metrics:\n  - name: m\n    count: \"{{args.cluster}}\"\n    provider:\n      web:\n        url: http://x\n"))
	f.Add([]byte("---\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		metrics, errs := ParseTemplates(data, map[string]string{"service-name": "x"}, time.Minute)
		if len(errs) > 0 {
			return
		}
		for i, m := range metrics {
			if errs := m.Validate(field.NewPath("m")); len(errs) > 0 {
				t.Errorf("a metric is taken that is not valid: %v", errs.ToAggregate())
			}
			_, _ = compile(m, nil, field.NewPath("m").Index(i), func(string) ([]byte, error) { return nil, os.ErrNotExist })
		}
	})
}

// prometheusAnswers speaks Prometheus' HTTP API as far as an instant query goes.
func prometheusAnswers(t *testing.T, answer func(query string) string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/query" || r.Header.Get("X-Scope-OrgID") != "fleet" {
			http.Error(w, r.URL.Path, http.StatusNotFound)
			return
		}
		body, _ := io.ReadAll(r.Body)
		values, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, answer(values.Get("query")))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// asked is an Analyst that only asks the user's metrics.
func asked(t *testing.T, m v1alpha1.RolloutMetric) *Analyst {
	t.Helper()
	a := v1alpha1.RolloutAnalysis{ConsecutiveLooks: 1, Metrics: []v1alpha1.RolloutMetric{m}}
	a.ControlPlane.Mode, a.DNS.Mode, a.Workload.Mode, a.Probes.Mode = v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled
	a.SetDefaults(time.Second)
	metrics, errs := Check(a, time.Second, field.NewPath("analysis"), func(string) ([]byte, error) { return nil, errors.New("no files") })
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	analyst, err := New(Options{Analysis: a, Interval: time.Second, Metrics: metrics, Clusters: []Cluster{{Name: "big", Config: &rest.Config{Host: "https://127.0.0.1:1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return analyst
}

func TestQueries(t *testing.T) {
	vector := func(values string) string {
		return `{"status":"success","data":{"resultType":"vector","result":[` + values + `]}}`
	}
	for name, tc := range map[string]struct {
		answer string
		change func(*v1alpha1.RolloutMetric)
		want   verdict.Verdict
		reason string
	}{
		"a vector":      {vector(`{"metric":{},"value":[1,"0.5"]}`), nil, verdict.Pass, "succeeded"},
		"a scalar":      {`{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`, func(m *v1alpha1.RolloutMetric) { m.SuccessCondition = "result < 1" }, verdict.Fail, "failed"},
		"nothing":       {vector(""), nil, verdict.Unknown, "index out of range"},
		"a warning":     {`{"status":"success","warnings":["store 3 is away"],"data":{"resultType":"vector","result":[]}}`, func(m *v1alpha1.RolloutMetric) { m.SuccessCondition = "len(result) == 0" }, verdict.Unknown, "incomplete"},
		"an error":      {`{"status":"error","errorType":"bad_data","error":"no"}`, nil, verdict.Unknown, "no"},
		"a dry run":     {vector(`{"metric":{},"value":[1,"7"]}`), func(m *v1alpha1.RolloutMetric) { m.DryRun = true }, verdict.Pass, "would be Fail"},
		"nodes alike":   {vector(nodes(1, 1)), compare, verdict.Unknown, "too few"},
		"no label":      {vector(`{"metric":{"pod":"x"},"value":[1,"7"]}`), compare, verdict.Unknown, `no label "node"`},
		"nodes, enough": {vector(nodes(1, 9)), func(m *v1alpha1.RolloutMetric) { compare(m); m.Compare.Significance = 0.2 }, verdict.Fail, "with the change"},
	} {
		t.Run(name, func(t *testing.T) {
			m := prometheus(`errors{cluster="{{args.cluster}}"}`)
			m.Provider.Prometheus.Address = prometheusAnswers(t, func(query string) string {
				if query != `errors{cluster="big"}` {
					t.Errorf("asked %q", query)
				}
				return tc.answer
			})
			m.Provider.Prometheus.Headers = []v1alpha1.RolloutHeader{{Key: "X-Scope-OrgID", Value: "fleet"}}
			if tc.change != nil {
				tc.change(&m)
			}
			analyst := asked(t, m)
			e := engine.Exposure{Cluster: "big", Step: 1, Exposed: []string{"n0"}, Since: time.Now().Add(-time.Minute)}
			findings := analyst.askMetrics(t.Context(), analyst.clusters["big"], e, time.Now())
			if f := findings[0]; f.Verdict != tc.want || !strings.Contains(f.Reason, tc.reason) {
				t.Errorf("%s: %s; want %s: …%s…", f.Verdict, f.Reason, tc.want, tc.reason)
			}
		})
	}
}

func compare(m *v1alpha1.RolloutMetric) {
	m.SuccessCondition, m.Compare = "", &v1alpha1.RolloutMetricCompare{Direction: v1alpha1.DirectionIncrease}
}

// nodes are ten nodes' values, the first of which has the change.
func nodes(others, exposed float64) string {
	var all []string
	for i := range 10 {
		v := others
		if i == 0 {
			v = exposed
		}
		all = append(all, fmt.Sprintf(`{"metric":{"node":"n%d"},"value":[1,"%g"]}`, i, v))
	}
	return strings.Join(all, ",")
}

func TestWeb(t *testing.T) {
	for name, tc := range map[string]struct {
		answer string
		code   int
		want   verdict.Verdict
	}{
		"true":       {`{"data":{"ok":true}}`, 200, verdict.Pass},
		"false":      {`{"data":{"ok":false}}`, 200, verdict.Fail},
		"missing":    {`{"data":{}}`, 200, verdict.Unknown},
		"no JSON":    {`ok`, 200, verdict.Unknown},
		"not served": {`{"data":{"ok":true}}`, 503, verdict.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/verdict/big" {
					t.Errorf("asked %s", r.URL.Path)
				}
				w.WriteHeader(tc.code)
				fmt.Fprint(w, tc.answer)
			}))
			defer server.Close()
			m := web("{$.data.ok}")
			m.Provider.Web.URL = server.URL + "/verdict/{{args.cluster}}"
			analyst := asked(t, m)
			e := engine.Exposure{Cluster: "big", Step: 1, Since: time.Now().Add(-time.Minute)}
			if f := analyst.askMetrics(t.Context(), analyst.clusters["big"], e, time.Now())[0]; f.Verdict != tc.want {
				t.Errorf("%s: %s; want %s", f.Verdict, f.Reason, tc.want)
			}
		})
	}
}
