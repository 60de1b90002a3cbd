package rollouttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	_ "embed"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// advancedCRD is a schema of our own, with the fields that a rollout reads and writes.
//
//go:embed advanceddaemonset.yaml
var advancedCRD []byte

// AdvancedDaemonSets is where a lab serves them.
var AdvancedDaemonSets = schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1alpha1", Resource: "daemonsets"}

// KruiseUserAgent is what the stand-in calls itself.
const KruiseUserAgent = "kruise-stand-in/1"

// Kruise stands in for OpenKruise's controller of Advanced DaemonSets. It is not the real one, which needs its webhooks and a
// minute to build; what it does was written down from OpenKruise 1.9's source (pkg/controller/daemonset): the order in which it
// takes nodes, partition, selector, paused, maxUnavailable, pods that are not ready outside of it, and progressive creation. It has
// no surge, no updates in place, no preDelete hooks and no adoption.
type Kruise struct {
	Objects dynamic.Interface

	client kubernetes.Interface
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// StartKruise serves Advanced DaemonSets on a lab, and runs the stand-in until the test ends.
func StartKruise(t testing.TB, l *lab.Lab) *Kruise {
	t.Helper()
	config := l.RESTConfig(lab.Masters)
	config.Timeout, config.QPS, config.Burst, config.UserAgent = 10*time.Second, 200, 200, KruiseUserAgent
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	var crd unstructured.Unstructured
	if err := yaml.Unmarshal(advancedCRD, &crd.Object); err != nil {
		t.Fatal(err)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if _, err := objects.Resource(crds).Create(t.Context(), &crd, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	testkit.Within(t, "Advanced DaemonSets are served", 30*time.Second, func() bool {
		_, err := objects.Resource(AdvancedDaemonSets).List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	k := &Kruise{Objects: objects, client: client}
	k.Resume(t)
	t.Cleanup(k.Stop)
	return k
}

// Stop ends the stand-in, as when the real one dies; Resume starts it again.
func (k *Kruise) Stop() {
	if k.stop != nil {
		k.stop()
	}
	k.ended.Wait()
}

// Resume starts the stand-in, after Stop.
func (k *Kruise) Resume(t testing.TB) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	k.stop = cancel
	k.ended.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := k.sync(ctx); err != nil && ctx.Err() == nil {
				t.Logf("The stand-in for OpenKruise tries again: %v", err)
			}
		}
	})
}

// DaemonSet makes the agent of the tests, version 1, as an Advanced DaemonSet, and waits until it is ready on that many nodes.
func (k *Kruise) DaemonSet(t testing.TB, namespace, name string, nodes int, strategy map[string]any) *unstructured.Unstructured {
	t.Helper()
	Namespace(t, k.client, namespace)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := k.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	made, err := k.Objects.Resource(AdvancedDaemonSets).Namespace(namespace).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps.kruise.io/v1alpha1", "kind": "DaemonSet", "metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"selector":       map[string]any{"matchLabels": map[string]any{"app": name}},
			"updateStrategy": strategy,
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": name}},
				"spec":     map[string]any{"serviceAccountName": name, "containers": []any{map[string]any{"name": "agent", "image": "registry.test/agent:1"}}},
			},
		},
	}}, metav1.CreateOptions{FieldManager: "an-admin"})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the Advanced DaemonSet is ready", time.Minute, func() bool {
		pods, err := k.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		ready := 0
		for i := range pods.Items {
			if isReady(&pods.Items[i]) {
				ready++
			}
		}
		return err == nil && ready == nodes
	})
	return made
}

// kruiseSpec is what the stand-in reads.
type kruiseSpec struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector       *metav1.LabelSelector  `json:"selector"`
		Template       corev1.PodTemplateSpec `json:"template"`
		UpdateStrategy struct {
			Type          string `json:"type"`
			RollingUpdate struct {
				MaxUnavailable *intstr.IntOrString   `json:"maxUnavailable"`
				Selector       *metav1.LabelSelector `json:"selector"`
				Partition      *intstr.IntOrString   `json:"partition"`
				Paused         bool                  `json:"paused"`
			} `json:"rollingUpdate"`
		} `json:"updateStrategy"`
	} `json:"spec"`

	whole *unstructured.Unstructured
}

// kruiseSees is what one round sees of a DaemonSet.
type kruiseSees struct {
	*kruiseSpec
	hash  string
	nodes map[string]*corev1.Node
	// pods are those that are its own, by node; a node that should have one and does not has an entry too.
	pods map[string][]*corev1.Pod
}

func (k *Kruise) sync(ctx context.Context) error {
	list, err := k.Objects.Resource(AdvancedDaemonSets).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		ds := &kruiseSpec{whole: &list.Items[i]}
		data, err := list.Items[i].MarshalJSON()
		if err == nil {
			err = json.Unmarshal(data, ds)
		}
		if err == nil && ds.DeletionTimestamp == nil {
			err = k.syncOne(ctx, ds)
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	return nil
}

func (k *Kruise) syncOne(ctx context.Context, ds *kruiseSpec) error {
	hash, err := k.revision(ctx, ds)
	if err != nil {
		return err
	}
	s, err := k.see(ctx, ds, hash)
	if err != nil {
		return err
	}
	created, err := k.manage(ctx, s)
	if err != nil || created {
		return err // the next round sees what was made
	}
	if ds.Spec.UpdateStrategy.Type == "OnDelete" || ds.Spec.UpdateStrategy.RollingUpdate.Paused {
		return nil
	}
	for _, p := range s.replace() {
		if err := k.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}); err != nil {
			return err
		}
	}
	return nil
}

// revision makes sure of a ControllerRevision of the template.
func (k *Kruise) revision(ctx context.Context, ds *kruiseSpec) (string, error) {
	template, err := json.Marshal(ds.Spec.Template)
	if err != nil {
		return "", err
	}
	// A namesake's revisions are its own.
	sum := sha256.Sum256(append(template, ds.UID...))
	hash := hex.EncodeToString(sum[:5])
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"template": json.RawMessage(template)}})
	if err != nil {
		return "", err
	}
	named := maps.Clone(ds.Spec.Template.Labels)
	named[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	_, err = k.client.AppsV1().ControllerRevisions(ds.Namespace).Create(ctx, &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: ds.Name + "-" + hash, Labels: named, OwnerReferences: []metav1.OwnerReference{ds.owner()}},
		Data:       runtime.RawExtension{Raw: data}, Revision: 1,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = nil
	}
	return hash, err
}

func (ds *kruiseSpec) owner() metav1.OwnerReference {
	return *metav1.NewControllerRef(ds.whole, schema.GroupVersionKind{Group: "apps.kruise.io", Version: "v1alpha1", Kind: "DaemonSet"})
}

func (k *Kruise) see(ctx context.Context, ds *kruiseSpec, hash string) (*kruiseSees, error) {
	nodes, err := k.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := k.client.CoreV1().Pods(ds.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(ds.Spec.Selector)})
	if err != nil {
		return nil, err
	}
	s := &kruiseSees{kruiseSpec: ds, hash: hash, nodes: map[string]*corev1.Node{}, pods: map[string][]*corev1.Pod{}}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		s.nodes[n.Name], s.pods[n.Name] = n, nil
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if owner := metav1.GetControllerOf(p); owner == nil || owner.UID != ds.UID {
			continue
		}
		node := cmp.Or(p.Spec.NodeName, p.Annotations[standInNode])
		s.pods[node] = append(s.pods[node], p)
	}
	return s, nil
}

// standInNode says on which node a pod is to be, before the scheduler has put it there.
const standInNode = "rollouttest.seakeep.dev/node"

// old and updated are a node's pods that are not ending.
func (s *kruiseSees) old(node string) *corev1.Pod     { return s.of(node, false) }
func (s *kruiseSees) updated(node string) *corev1.Pod { return s.of(node, true) }

func (s *kruiseSees) of(node string, updated bool) *corev1.Pod {
	for _, p := range s.pods[node] {
		if p.DeletionTimestamp == nil && (p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == s.hash) == updated {
			return p
		}
	}
	return nil
}

func (s *kruiseSees) partition() int {
	if s.Spec.UpdateStrategy.RollingUpdate.Partition == nil {
		return 0
	}
	n, _ := intstr.GetScaledValueFromIntOrPercent(s.Spec.UpdateStrategy.RollingUpdate.Partition, len(s.pods), false)
	return n
}

// manage makes pods where there is none, by the names of the nodes; progressively, only so many.
func (k *Kruise) manage(ctx context.Context, s *kruiseSees) (created bool, err error) {
	var missing []string
	updated := 0
	for node, pods := range s.pods {
		if len(pods) == 0 {
			missing = append(missing, node)
		}
		if s.updated(node) != nil {
			updated++
		}
	}
	slices.Sort(missing)
	if partition := s.partition(); partition != 0 && s.Annotations["daemonset.kruise.io/progressive-create-pod"] == "true" {
		most := max(0, len(s.pods)-updated-min(partition, len(s.pods)))
		missing = missing[:min(most, len(missing))]
	}
	for _, node := range missing {
		if _, err := k.client.CoreV1().Pods(s.Namespace).Create(ctx, s.pod(node), metav1.CreateOptions{}); err != nil {
			return true, err
		}
	}
	return len(missing) > 0, nil
}

func (s *kruiseSees) pod(node string) *corev1.Pod {
	template := s.Spec.Template.DeepCopy()
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Namespace, p.GenerateName, p.OwnerReferences = s.Namespace, s.Name+"-", []metav1.OwnerReference{s.owner()}
	p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = s.hash
	p.Annotations = map[string]string{standInNode: node}
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}},
	}}}}
	p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists})
	return p
}

// replace chooses the old pods to delete: of the nodes that partition and selector leave, those that are not ready at once, the
// others as maxUnavailable lets.
func (s *kruiseSees) replace() []*corev1.Pod {
	rolling := s.Spec.UpdateStrategy.RollingUpdate
	budget := 1
	if rolling.MaxUnavailable != nil {
		budget, _ = intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, len(s.pods), true)
	}
	var outright, candidates []*corev1.Pod
	for _, node := range s.letting() {
		updated, old := s.updated(node), s.old(node)
		switch {
		case updated == nil && old == nil, updated != nil && !isReady(updated):
			budget--
		case updated != nil:
		case !isReady(old):
			outright = append(outright, old)
		default:
			candidates = append(candidates, old)
		}
	}
	return append(outright, candidates[:max(0, min(budget, len(candidates)))]...)
}

// letting are the nodes that may be updated: those that were, those that have no pod, and then by name, the last first, those
// that the selector matches, or all when there is none; in all as many as the partition leaves.
func (s *kruiseSees) letting() []string {
	selector := labels.Everything()
	if by := s.Spec.UpdateStrategy.RollingUpdate.Selector; by != nil {
		selector, _ = metav1.LabelSelectorAsSelector(by)
	}
	var first, second, third []string
	for _, node := range slices.Backward(slices.Sorted(maps.Keys(s.pods))) {
		switch {
		case s.nodes[node] == nil:
		case s.updated(node) != nil:
			first = append(first, node)
		case s.old(node) == nil:
			second = append(second, node)
		case selector.Matches(labels.Set(s.nodes[node].Labels)):
			third = append(third, node)
		}
	}
	all := slices.Concat(first, second, third)
	most := max(0, len(s.pods)-min(s.partition(), math.MaxInt32))
	return all[:min(most, len(all))]
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Edit changes an Advanced DaemonSet as somebody else does.
func (k *Kruise) Edit(t testing.TB, namespace, name, patch string) {
	t.Helper()
	_, err := k.Objects.Resource(AdvancedDaemonSets).Namespace(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "an-admin"})
	if err != nil {
		t.Fatal(err)
	}
}
