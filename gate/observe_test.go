package gate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/accesslog"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/tracing/tracingtest"
	"github.com/seakeep/seakeep/lab"
)

func accessLines(t *testing.T, path string) []accesslog.Line {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	var all []accesslog.Line
	for text := range bytes.Lines(data) {
		var l accesslog.Line
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		all = append(all, l)
	}
	return all
}

func TestAccessLog(t *testing.T) {
	l := cluster(t)
	file := filepath.Join(t.TempDir(), "access.log")
	const rules = "limits: [{name: no-secrets, match: {resources: [secrets]}, action: Deny}]\n"
	n := openLane(t, l, rules+fmt.Sprintf("accessLog: {file: %q, sampleRatio: 1}\n", file))
	client := n.Client(lab.Admin)
	_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
	check(t, err)
	_, err = client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{Limit: 3, ResourceVersion: "0"})
	check(t, err)
	if _, err := client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("the rule does not deny")
	}
	w, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	check(t, err)
	refused, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/api/v1/namespaces/a/services/b/proxy/hunter2?token=hunter2", nil)
	check(t, err)
	refused.Header.Set("Connection", "X-Remote-User")
	response, err := n.HTTP(false).Do(refused)
	check(t, err)
	check(t, response.Body.Close())
	w.Stop()
	var lines []accesslog.Line
	eventually(t, "five lines", func() bool { lines = accessLines(t, file); return len(lines) == 5 })

	find := func(verb, resource string) accesslog.Line {
		t.Helper()
		i := slices.IndexFunc(lines, func(l accesslog.Line) bool { return l.Verb == verb && l.Resource == resource })
		if i < 0 {
			t.Fatalf("no line of %s %s: %+v", verb, resource, lines)
		}
		return lines[i]
	}
	if got := find("get", "namespaces"); got.User != lab.AdminUser || got.Name != "default" || got.Code != 200 || got.Upstream != "lab" ||
		len(got.AuditID) != 36 || got.Seconds <= 0 || got.UpstreamSeconds <= 0 || got.ResponseBytes == 0 || got.Source != "127.0.0.1" || got.UserAgent != "seakeep-lab" {
		t.Errorf("the GET's line: %+v", got)
	}
	if got := find("list", "pods"); got.Query != "limit=3&resourceVersion=0" || got.Scope != "Namespace" {
		t.Errorf("the LIST's line: %+v", got)
	}
	if got := find("list", "secrets"); got.RejectedBy != "limit:no-secrets" || got.Code != 403 || got.Upstream != "" {
		t.Errorf("the rejection's line: %+v", got)
	}
	if got := find("watch", "configmaps"); got.Code != 200 {
		t.Errorf("the watch's line: %+v", got)
	}
	if got := find("get", ""); got.Code != 400 || got.RejectedBy == "" || got.Path != "/api/v1/namespaces/a/services/b/proxy/…" || got.Query != "token=…" {
		t.Errorf("the refusal's line: %+v", got)
	}

	// Another file from now on, then none.
	good, err := os.ReadFile(n.File)
	check(t, err)
	other := file + ".other"
	n.Replace(strings.Replace(string(good), file, other, 1))
	eventually(t, "the other file", func() bool { _, err := os.Stat(other); return err == nil })
	_, err = client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
	check(t, err)
	eventually(t, "a line in the other file", func() bool { return len(accessLines(t, other)) == 1 })
	if got := len(accessLines(t, file)); got != 5 {
		t.Errorf("%d lines in the first file, want 5", got)
	}
	n.Replace(strings.Replace(string(good), file, filepath.Join(file, "below-a-file"), 1))
	n.Replace(strings.Replace(string(good), "accessLog:", "#", 1))
}

const sampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// The API server's spans hang below the gate's, and those below the client's.
func TestTracesReachTheAPIServer(t *testing.T) {
	receiver := tracingtest.New(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "tracing.yaml")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\nendpoint: %s\nsamplingRatePerMillion: 0\n", receiver.GRPC), 0o600))
	l := lab.Start(t, lab.Options{Dir: filepath.Join(dir, "lab"), ExtraArgs: map[string][]string{lab.KindAPIServer: {"--tracing-config-file=" + config}}})
	n := openLane(t, l, fmt.Sprintf("tracing: {endpoint: %q, samplingRatePerMillion: 1000000}\n", receiver.URL))
	defer receiver.Stop() // before the lane looks for what is left open
	// The API server joins the traces of these groups only; others' are linked.
	certificate := n.Certificate(lab.User("monitor", "system:monitoring"))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/version", nil)
	check(t, err)
	request.Header.Set("traceparent", sampledParent)
	response, err := n.HTTP(true, certificate).Do(request)
	check(t, err)
	check(t, response.Body.Close())
	if response.StatusCode != http.StatusOK {
		t.Fatalf("got %d", response.StatusCode)
	}
	var root, upstream, server tracingtest.Span
	receiver.Await(t, "spans of gate and API server", func(spans []tracingtest.Span) bool {
		for _, s := range spans {
			switch {
			case s.TraceID != sampledParent[3:35]:
			case s.Service != "seakeep-gate":
				if server.ID == "" || s.Begin.Before(server.Begin) {
					server = s
				}
			case s.Name == "upstream":
				upstream = s
			case s.Parent == sampledParent[36:52]:
				root = s
			}
		}
		return root.ID != "" && upstream.ID != "" && server.ID != ""
	})
	if upstream.Parent != root.ID || server.Parent != upstream.ID {
		t.Errorf("want client → gate → upstream → API server, got\n%+v\n%+v\n%+v", root, upstream, server)
	}
	if got := root.Attributes["user.name"]; got != "monitor" || root.Name != "get /version" {
		t.Errorf("the gate's span is %q of %q", root.Name, got)
	}
}

// A collector that is down costs spans, no request; reloads and the end leave nothing behind (gatetest looks).
func TestTracingWithoutACollector(t *testing.T) {
	l := cluster(t)
	const tracing = "tracing: {endpoint: \"http://127.0.0.1:1\", samplingRatePerMillion: %d}\n"
	n := gatetest.Open(t, l, gatetest.Options{More: fmt.Sprintf(tracing, 1000000)})
	client := n.Client(lab.Admin)
	for i := range 50 {
		if i == 25 {
			good, err := os.ReadFile(n.File)
			check(t, err)
			n.Replace(strings.Replace(string(good), "1000000", "999999", 1))
		}
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		check(t, err)
	}
	n.Stop()
	failed := 0.0
	families, err := n.Registry.Gather()
	check(t, err)
	for _, family := range families {
		for _, m := range family.Metric {
			if family.GetName() == "seakeep_gate_trace_spans_total" && m.Label[0].GetValue() == "failed" {
				failed = m.Counter.GetValue()
			}
		}
	}
	if failed < 4*25 {
		t.Errorf("%g spans are counted as failed", failed)
	}
}
