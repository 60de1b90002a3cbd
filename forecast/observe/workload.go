package observe

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/signals"
)

// Workload is a component's object, as the command line names it.
type Workload struct{ Namespace, Name string }

// ParseWorkload reads daemonset/namespace/name.
func ParseWorkload(text string) (Workload, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
		return Workload{}, fmt.Errorf("a workload must be daemonset/NAMESPACE/NAME, got %q", text)
	}
	switch strings.ToLower(parts[0]) {
	case "daemonset", "daemonsets", "ds", "daemonset.apps", "daemonsets.apps":
		return Workload{Namespace: parts[1], Name: parts[2]}, nil
	}
	return Workload{}, fmt.Errorf("a workload must be a DaemonSet, whose cost grows with nodes, got %q", parts[0])
}

// String is how it is written.
func (w Workload) String() string { return "daemonset/" + w.Namespace + "/" + w.Name }

// ServiceAccount is who runs it, namespace/name. Whoever else runs as the same is counted too.
func (w Workload) ServiceAccount(ctx context.Context, client kubernetes.Interface) (string, error) {
	ds, err := client.AppsV1().DaemonSets(w.Namespace).Get(ctx, w.Name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", w, err)
	}
	name := ds.Spec.Template.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	return w.Namespace + "/" + name, nil
}

// DaemonSet is a Place: how many nodes run the newest template of a DaemonSet. It asks for one object; how many nodes and
// objects there are comes from the API servers' own counts, because to LIST them each minute would be a load of the kind that
// is to be measured.
type DaemonSet struct {
	Client   kubernetes.Interface
	Cluster  string
	Workload Workload
	// Servers are read; Counted is what the component reads, for Exposure.Objects.
	Servers []Server
	Counted signals.Resource
	// Nodes is how many the cluster has; 0: what the API servers say.
	Nodes int
}

// Exposure implements Place.
func (d *DaemonSet) Exposure(ctx context.Context) (Exposure, error) {
	ds, err := d.Client.AppsV1().DaemonSets(d.Workload.Namespace).Get(ctx, d.Workload.Name, metav1.GetOptions{})
	if err != nil {
		return Exposure{}, fmt.Errorf("reading %s: %w", d.Workload, err)
	}
	if ds.Status.ObservedGeneration < ds.Generation {
		return Exposure{}, fmt.Errorf("reading %s: its controller has not seen its last change yet", d.Workload)
	}
	readings, err := loads(ctx, d.Servers)
	if err != nil {
		return Exposure{}, err
	}
	e := Exposure{Cluster: d.Cluster, Nodes: d.Nodes}
	counted := 0.0
	for _, l := range readings {
		e.Objects = max(e.Objects, int(l.Objects[d.Counted]))
		counted = max(counted, l.Objects[signals.Resource{Resource: "nodes"}])
	}
	if e.Nodes == 0 {
		e.Nodes = int(counted)
	}
	if e.Nodes == 0 {
		return Exposure{}, errors.New("the API servers do not say how many nodes there are (apiserver_resource_objects, about a minute after their start)")
	}
	// Pods of the newest template, which under OnDelete are those of the change.
	e.Exposed = int(ds.Status.UpdatedNumberScheduled)
	e.Nodes = max(e.Nodes, e.Exposed)
	return e, nil
}
