package replay

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/drill/scenarios"
	"github.com/seakeep/seakeep/internal/config"
)

// What the layer makes of the incident is a scenario, and what it gives to the rollout is what a user could have written: no
// bake is shorter than the caches live.
func TestRolledOut(t *testing.T) {
	d, err := scenarios.Load("openai-2024-12-11")
	if err != nil {
		t.Fatal(err)
	}
	own := rolledOut(d)
	if errs := own.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	if len(own.Timeline) >= len(d.Timeline) || len(own.Phases) >= len(d.Phases) || own.End.At.Duration < time.Hour {
		t.Errorf("%d of %d steps, %d of %d phases, the end at %s", len(own.Timeline), len(d.Timeline), len(own.Phases), len(d.Phases), own.End.At.Duration)
	}
	set := &unstructured.Unstructured{}
	for _, step := range d.Timeline {
		if step.Action.Apply == nil {
			continue
		}
		for _, manifest := range step.Action.Apply.Manifests {
			object := map[string]any{}
			if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
				t.Fatal(err)
			}
			if u := (&unstructured.Unstructured{Object: object}); u.GetKind() == "DaemonSet" {
				set = u
			}
		}
	}
	text := (&rollouts{scenario: own}).files(set, nil, "/kubeconfig", "127.0.0.1:6443")
	docs, err := config.Load("-", bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, doc := range docs {
		if r, ok := doc.Object.(*v1alpha1.Rollout); ok {
			ttl := metav1.Duration{Duration: 20 * time.Minute / 30}
			if r.Change.DaemonSet == nil || r.Change.DaemonSet.Name != "telemetry" || r.Bake.CacheTTLs[0].TTL != ttl || r.Bake.MinDuration.Duration < ttl.Duration {
				t.Errorf("%s", text)
			}
		}
	}
}

// A trial of a rollout is a drill too: the layer makes an update of it, judges DNS where the drill does not, and waits for its nodes.
func TestRolledOutUpdate(t *testing.T) {
	d, _, err := config.LoadKind[*v1alpha1.Drill]("-", strings.NewReader(everyChange))
	if err != nil {
		t.Fatal(err)
	}
	own := rolledOut(d)
	if limit := own.Timeline[0].Timeout.Duration; limit < time.Hour || d.Timeline[0].Timeout.Duration > time.Minute {
		t.Errorf("its nodes are waited for for %v, and without the layer for %v", limit, d.Timeline[0].Timeout.Duration)
	}
	set := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(fixtures.AgentVersion(d.Fixtures.Namespace, "1", d.Timeline[0].Action.Update.Annotations), &set.Object); err != nil {
		t.Fatal(err)
	}
	if image := imageOf(set); image != fixtures.AgentImage("1") {
		t.Errorf("the change is known by %q", image)
	}
	docs, err := config.Load("-", bytes.NewReader((&rollouts{scenario: own, dns: []string{"127.0.0.1:1053"}}).files(set, nil, "/kubeconfig", "127.0.0.1:6443")))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		switch o := doc.Object.(type) {
		case *v1alpha1.Fleet:
			if len(o.Clusters[0].DNS) != 1 {
				t.Errorf("%+v", o.Clusters[0])
			}
		case *v1alpha1.Rollout:
			if c := o.Change.DaemonSet; c.Install != nil || c.Patch == nil || c.Template != nil || o.Analysis.DNS.Mode != v1alpha1.Enabled {
				t.Errorf("%+v, DNS %s", c, o.Analysis.DNS.Mode)
			}
		}
	}
}
