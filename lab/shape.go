package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab/agents"
)

const (
	// shapeNamespace begins the names of the namespaces of what is built.
	shapeNamespace = "shape-"
	// shapePerNamespace objects of a kind are in one namespace.
	shapePerNamespace = 500
	// podOverhead is about what a pod of the population is in etcd without what fills it, in bytes.
	podOverhead = 3400
	// objectOverhead is the same of what has little but its data.
	objectOverhead = 400
	// maxShapeWatchers bounds the DaemonSets that watch one resource, maxShapeAskers those that ask.
	maxShapeWatchers = 3
	maxShapeAskers   = 12
	// shapeWatch is how long a watch lasts, as client-go's.
	shapeWatch = "7m"
)

// SetShape makes the lab's nodes and pods as many, and the pods as large, as the shape says.
func (o *Options) SetShape(s *v1alpha1.ClusterShape) {
	o.Nodes, o.Pods = s.Count("", "nodes"), s.Count("", "pods")
	for _, one := range s.Objects {
		if one.Group == "" && one.Resource == "pods" && one.Bytes > 0 {
			o.PodBytes = int(one.Bytes)
		}
	}
}

// fillable are the kinds that BuildShape makes of data, with their paths.
var fillable = map[string]string{"configmaps": "ConfigMap", "secrets": "Secret", "services": "Service", "serviceaccounts": "ServiceAccount"}

// BuildShape adds to a populated lab what the shape has and the population lacks: ConfigMaps, Secrets, Services, ServiceAccounts
// and custom resources, as many and as large; clients that watch and ask as often. It returns what it did not build, a phrase
// each: a lab that is smaller than what it stands for must say so.
func (l *Lab) BuildShape(ctx context.Context, s *v1alpha1.ClusterShape) (left []string, err error) {
	for i, one := range s.Objects {
		switch {
		case one.Group == "" && fillable[one.Resource] != "":
			err = l.fill(ctx, one, "/api/v1", one.Resource, func(namespace, name string) any { return filled(one, namespace, name) })
		case strings.HasPrefix(one.Group, "custom-"):
			err = l.custom(ctx, i, one)
		case one.Group == "" && (one.Resource == "nodes" || one.Resource == "pods"):
		default:
			left = append(left, fmt.Sprintf("%d %s", one.Count, one.Resource))
		}
		if err != nil {
			return left, fmt.Errorf("building the shape's %s: %w", one.Resource, err)
		}
	}
	more, err := l.shapeClients(ctx, s)
	return append(left, more...), err
}

// filled is an object of so many bytes.
func filled(o v1alpha1.ShapeObjects, namespace, name string) any {
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	text := strings.Repeat("x", max(0, int(o.Bytes)-objectOverhead))
	switch o.Resource {
	case "configmaps":
		return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta, Data: map[string]string{"data": text}}
	case "secrets":
		return &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta, StringData: map[string]string{"data": text}}
	case "services":
		meta.Annotations = map[string]string{"data": text}
		return &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "http", Port: 80}},
		}}
	}
	meta.Annotations = map[string]string{"data": text}
	return &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta}
}

// fill makes as many objects as are missing.
func (l *Lab) fill(ctx context.Context, o v1alpha1.ShapeObjects, root, resource string, object func(namespace, name string) any) error {
	missing := o.Count
	if o.Resource == "services" {
		missing -= len(l.Deployments()) + 1
	}
	if missing <= 0 {
		return nil
	}
	spaces := (missing + shapePerNamespace - 1) / shapePerNamespace
	for i := range spaces {
		if err := l.shapeSpace(ctx, i); err != nil {
			return err
		}
	}
	l.options.Progress(fmt.Sprintf("Creating %d %s", missing, resource))
	return parallel(ctx, missing, func(ctx context.Context, i int) error {
		namespace := shapeNamespace + strconv.Itoa(i%spaces)
		path := root + "/namespaces/" + namespace + "/" + resource
		return l.post(ctx, path, object(namespace, resource+"-"+strconv.Itoa(i)))
	})
}

func (l *Lab) shapeSpace(ctx context.Context, i int) error {
	one := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shapeNamespace + strconv.Itoa(i)}}
	_, err := l.client.CoreV1().Namespaces().Create(ctx, one, metav1.CreateOptions{})
	return ignoreExists(err)
}

// post creates an object of any kind.
func (l *Lab) post(ctx context.Context, path string, object any) error {
	text, err := json.Marshal(object)
	if err != nil {
		return err
	}
	err = l.client.Discovery().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(text).Do(ctx).Error()
	return ignoreExists(err)
}

// custom makes a kind of its own for a custom resource, and its objects.
func (l *Lab) custom(ctx context.Context, i int, o v1alpha1.ShapeObjects) error {
	group, plural, kind := "shape.seakeep.dev", "custom"+strconv.Itoa(i), "Custom"+strconv.Itoa(i)
	definition := map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": plural + "." + group},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"plural": plural, "kind": kind, "singular": plural, "listKind": kind + "List"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
				"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
		},
	}
	if err := l.post(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition); err != nil {
		return err
	}
	root := "/apis/" + group + "/v1"
	err := poll(ctx, func(ctx context.Context) (bool, error) {
		err := l.client.Discovery().RESTClient().Get().AbsPath(root + "/" + plural).Do(ctx).Error()
		return err == nil, err
	})
	if err != nil {
		return err
	}
	text := strings.Repeat("x", max(0, int(o.Bytes)-objectOverhead))
	return l.fill(ctx, o, root, plural, func(namespace, name string) any {
		return map[string]any{"apiVersion": group + "/v1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": namespace}, "data": text}
	})
}

// shapeClients makes DaemonSets of agents that watch and ask as the cluster's clients do. Agents run on every node, so that fewer
// watches than half the nodes are left out. How much of a LIST is asked for is not in a shape: they are of one namespace.
func (l *Lab) shapeClients(ctx context.Context, s *v1alpha1.ClusterShape) (left []string, err error) {
	if l.options.Nodes == 0 {
		return nil, nil
	}
	if err := l.shapeIdentity(ctx); err != nil {
		return nil, err
	}
	n := 0
	add := func(annotations map[string]string) error {
		n++
		return l.shapeDaemonSet(ctx, "client-"+strconv.Itoa(n), annotations)
	}
	for _, w := range s.Watches {
		per := (2*w.Count + l.options.Nodes) / (2 * l.options.Nodes)
		resource, ok := agentResource(w.Group, w.Resource)
		if per == 0 || !ok {
			left = append(left, fmt.Sprintf("%d watches of %s", w.Count, w.Resource))
			continue
		}
		if per > maxShapeWatchers {
			left = append(left, fmt.Sprintf("%d watches of %s", w.Count-maxShapeWatchers*l.options.Nodes, w.Resource))
			per = maxShapeWatchers
		}
		for range per {
			a := map[string]string{agents.AnnotationVerb: agents.VerbWatchList, agents.AnnotationResource: resource, agents.AnnotationPeriod: shapeWatch, agents.AnnotationMediaType: "protobuf"}
			if resource == "pods" { // most watches of pods are the kubelets', of their own node's
				a[agents.AnnotationScope] = agents.ScopeNode
			}
			if err := add(a); err != nil {
				return left, err
			}
		}
	}
	asking := 0
	for _, r := range s.Requests {
		resource, ok := agentResource(r.Group, r.Resource)
		verb := map[string]string{"GET": agents.VerbGet, "LIST": agents.VerbList}[r.Verb]
		if verb == "" || !ok || verb == agents.VerbGet && resource != "pods" && resource != "nodes" || asking == maxShapeAskers {
			left = append(left, fmt.Sprintf("%s of %s, %.1f/s", r.Verb, r.Resource, float64(r.PerThousandSeconds)/1000))
			continue
		}
		period := time.Duration(float64(l.options.Nodes) * 1000 / float64(max(1, r.PerThousandSeconds)) * float64(time.Second))
		if period < 10*time.Millisecond || period > 24*time.Hour {
			left = append(left, fmt.Sprintf("%s of %s, %.1f/s", r.Verb, r.Resource, float64(r.PerThousandSeconds)/1000))
			continue
		}
		asking++
		a := map[string]string{
			agents.AnnotationVerb: verb, agents.AnnotationResource: resource, agents.AnnotationPeriod: period.Round(time.Millisecond).String(),
			agents.AnnotationResourceVersion: "0", agents.AnnotationMediaType: "protobuf",
		}
		if verb == agents.VerbList {
			a[agents.AnnotationScope] = agents.ScopeNamespace
		}
		if err := add(a); err != nil {
			return left, err
		}
	}
	return left, nil
}

// agentResource is how agents name a resource that the lab has.
func agentResource(group, resource string) (string, bool) {
	if strings.HasPrefix(group, "custom-") || strings.Contains(resource, "/") {
		return "", false
	}
	// What lives outside namespaces cannot be asked for in one, and what is at another version than v1 has to be named with it.
	if !slices.Contains([]string{"", "apps", "batch", "coordination.k8s.io", "discovery.k8s.io", "networking.k8s.io", "rbac.authorization.k8s.io", "storage.k8s.io"}, group) {
		return "", false
	}
	if group == "" {
		return resource, true
	}
	return resource + "." + group, true
}

const shapeAccount = "shape-client"

func (l *Lab) shapeIdentity(ctx context.Context) error {
	if err := l.shapeSpace(ctx, 0); err != nil {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	namespace := shapeNamespace + "0"
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: shapeAccount, Namespace: namespace}}
	if _, err := l.client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); ignoreExists(err) != nil {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: shapeAccount}, Rules: []rbacv1.PolicyRule{rule("*", []string{"*"}, "get", "list", "watch")}}
	if _, err := l.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); ignoreExists(err) != nil {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	_, err := l.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: shapeAccount}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: shapeAccount},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: shapeAccount}},
	}, metav1.CreateOptions{})
	if err = ignoreExists(err); err != nil {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	return nil
}

func (l *Lab) shapeDaemonSet(ctx context.Context, name string, annotations map[string]string) error {
	if _, _, err := agents.ParseBehaviour(annotations); err != nil {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	labels := map[string]string{"app": name}
	_, err := l.client.AppsV1().DaemonSets(shapeNamespace+"0").Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec: corev1.PodSpec{
					ServiceAccountName: shapeAccount,
					Containers:         []corev1.Container{{Name: "client", Image: "registry.example.com/shape:1"}},
				},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("building the shape's clients: %w", err)
	}
	return nil
}
