package replay

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/catalog"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

// everyProbe is a short scenario with every probe and the actions that need no gate and no machines.
const everyProbe = `apiVersion: seakeep.dev/v1alpha1
kind: Drill
name: every-probe
title: Every probe
target: {kind: Lab}
parameters: {nodes: 5, pods: 20, factor: 1}
fixtures: {services: 60}
dns: {ttl: 30s}
phases: [{name: baseline, at: -2s}, {name: work, at: 0s}]
timeline:
- {name: expire, at: -1s, action: {dnsCache: {op: Expire}}}
- {name: make, at: 0s, action: {apply: {manifests: ["{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: default}, data: {a: b}}", "{apiVersion: v1, kind: ConfigMap, metadata: {name: removed, namespace: default}}"]}}}
- {name: remove, after: make, plus: 1s, mitigates: true, action: {delete: {apiVersion: v1, kind: ConfigMap, namespace: default, name: removed}}}
- {name: restart-dns, at: 2s, timeout: 10s, action: {component: {name: dns, op: Restart}}}
probes:
- admin: {}
- breakglass: {}
- controllers: {}
- leases: {}
- dns: {}
- readyz: {}
recovered: [{probe: admin, consecutive: 3}, {probe: dns, series: unique, consecutive: 3}]
end: {at: 14s}
`

func TestEveryProbeOnALab(t *testing.T) {
	d, _, err := config.LoadKind[*v1alpha1.Drill]("-", strings.NewReader(everyProbe))
	if err != nil {
		t.Fatal(err)
	}
	before := gatetest.Snapshot()
	t.Cleanup(func() { before.Verify(t) })
	ctx := t.Context()
	l := lab.Start(t, lab.Options{Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Dir: filepath.Join(t.TempDir(), "lab")})
	target := &labTarget{lab: l, serving: 1}
	if err := fixtures.Prepare(ctx, d, target); err != nil {
		t.Fatal(err)
	}
	if err := fixtures.Prepare(ctx, d, target); err != nil {
		t.Fatalf("preparing what is prepared: %v", err)
	}
	if err := target.startDNS(ctx, d, None); err != nil {
		t.Fatal(err)
	}
	scrape, closeScraper := drill.NewScraper()
	defer closeScraper()
	r, err := drill.Run(ctx, d, target, drill.Options{NewAction: catalog.NewAction, NewProbe: catalog.NewProbe, Scrape: scrape})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) > 0 {
		t.Errorf("problems: %q", r.Problems)
	}
	for _, want := range []struct{ probe, series string }{
		{"admin", "get"}, {"admin", "list"}, {"admin", "patch"}, {"breakglass", "patch"}, {"controllers", "scale"},
		{"leases", "renewal"}, {"leases", "overdue"}, {"dns", "cached"}, {"dns", "unique"}, {"dns", "afterRestart"}, {"readyz", "readyz"},
	} {
		s := drill.Summarize(r.Select(want.probe, want.series, nil), 0)
		if s.OK == 0 {
			t.Errorf("%s/%s on a cluster that is well: want good samples, got %v", want.probe, want.series, s.Outcomes)
		}
	}
	readings := 0
	for _, p := range r.Signals {
		if p.Error == "" && p.Reading.CPUSeconds > 0 {
			readings++
		}
	}
	if readings == 0 {
		t.Errorf("want readings of the API server's own signals, got %+v", r.Signals)
	}
	assertWorld(t, ctx, l, d.Fixtures.Namespace)
}

// assertWorld holds that the drill did what it says it did.
func assertWorld(t *testing.T, ctx context.Context, l *lab.Lab, ns string) {
	t.Helper()
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if kept, err := client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil || kept.Data["a"] != "b" {
		t.Errorf("applied: want the ConfigMap with its data, got %v, %v", kept, err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(ctx, "removed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deleted: want not found, got %v", err)
	}
	patched, err := client.AppsV1().Deployments(ns).Get(ctx, fixtures.Patched, metav1.GetOptions{})
	if err != nil || patched.Annotations["drill.seakeep.dev/patched"] == "" {
		t.Errorf("patched: want the annotation, got %v, %v", patched.GetAnnotations(), err)
	}
}
