package hub

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Whoever may write Rollouts on a hub must not have files of the controller read, and sent to where they say.
func TestObjectsNameNoFiles(t *testing.T) {
	const object = `
metadata: {name: telemetry, namespace: seakeep}
spec:
  change: {daemonSet: {namespace: telemetry, name: agent, patch: {spec: {containers: [{name: agent, image: "agent:2"}]}}}}
  stages: [{name: all, labelSelector: {matchLabels: {stage: all}}}]
  interval: 10s
  analysis:
    ANALYSIS
`
	header := func(provider string) string {
		return `metrics: [{name: m, successCondition: "true", provider: {` + provider + `, headers: [{key: a, value: b}, {key: c, valueFrom: {file: /run/secrets/token}}]}}}]`
	}
	for name, test := range map[string]struct{ analysis, want string }{
		"none":          {`metrics: [{name: m, successCondition: "true", provider: {web: {url: "http://x", headers: [{key: a, value: b}]}}}]`, ""},
		"templates":     {"templates: [x.yaml]", "analysis.templates"},
		"of prometheus": {header(`prometheus: {address: "http://x", query: up`), "analysis.metrics[0].provider.prometheus.headers[1].valueFrom"},
		"of web":        {header(`web: {url: "http://x"`), "analysis.metrics[0].provider.web.headers[1].valueFrom"},
	} {
		t.Run(name, func(t *testing.T) {
			u := new(unstructured.Unstructured)
			if err := yaml.Unmarshal([]byte(strings.Replace(object, "ANALYSIS", test.analysis, 1)), &u.Object); err != nil {
				t.Fatal(err)
			}
			_, err := read(u)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want+": an object may not have files")) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
