package fleet

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

var options = Options{UserAgent: "test", Timeout: 10 * time.Second}

func TestFleetOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.WriteKubeconfig(file, lab.Masters, "", ""))
	// As a Secret holds it: with its credentials inside.
	whole, err := clientcmd.LoadFromFile(file)
	must(err)
	must(clientcmdapi.FlattenConfig(whole))
	data, err := clientcmd.Write(*whole)
	must(err)
	config := l.RESTConfig(lab.Masters)
	client, err := kubernetes.NewForConfig(config)
	must(err)
	secret := func(name string, data []byte) {
		t.Helper()
		_, err := client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"fleet": "a", "stage": name}},
			Data:       map[string][]byte{"value": data},
		}, metav1.CreateOptions{})
		must(err)
	}
	secret("one", data)
	secret("two", data)
	hub := v1alpha1.FleetHub{Kubeconfig: file, Namespace: "default", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"fleet": "a"}}}
	fleet := &v1alpha1.Fleet{
		Name: "fleet", Clusters: []v1alpha1.FleetCluster{{Name: "three", Labels: map[string]string{"stage": "three"}, Kubeconfig: file}},
		Secrets: &v1alpha1.FleetSecrets{FleetHub: hub},
	}
	fleet.SetDefaults()
	clusters, err := Load(t.Context(), fleet, options)
	must(err)
	if diff := cmp.Diff([]string{"one", "three", "two"}, Names(clusters)); diff != "" {
		t.Error(diff)
	}
	for name, c := range clusters {
		if c.Labels["stage"] != name {
			t.Errorf("%s has the labels %v", name, c.Labels)
		}
		reached, err := kubernetes.NewForConfig(c.Config)
		must(err)
		if _, err := reached.Discovery().ServerVersion(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// The inventory's own resource, as its users install it.
	objects, err := dynamic.NewForConfig(config)
	must(err)
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	_, err = objects.Resource(crds).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		// The group is one of Kubernetes' own, which asks for a pull request to have approved it.
		"metadata": map[string]any{"name": "clusterprofiles.multicluster.x-k8s.io", "annotations": map[string]any{"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/4322-cluster-inventory"}},
		"spec": map[string]any{
			"group": "multicluster.x-k8s.io", "scope": "Namespaced",
			"names":    map[string]any{"kind": "ClusterProfile", "plural": "clusterprofiles"},
			"versions": []any{map[string]any{"name": "v1alpha1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
		},
	}}, metav1.CreateOptions{})
	must(err)
	profile := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
			"metadata": map[string]any{"name": name, "labels": map[string]any{"fleet": "a"}},
		}}
	}
	testkit.Within(t, "ClusterProfiles are served", 30*time.Second, func() bool {
		_, err := objects.Resource(profiles).Namespace("default").Create(t.Context(), profile("one"), metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	found, err := Load(t.Context(), &v1alpha1.Fleet{Name: "fleet", ClusterProfiles: &v1alpha1.FleetProfiles{FleetHub: hub, Key: "value"}}, options)
	must(err)
	if diff := cmp.Diff([]string{"one"}, Names(found)); diff != "" {
		t.Error(diff)
	}
	_, err = objects.Resource(profiles).Namespace("default").Create(t.Context(), profile("lost"), metav1.CreateOptions{})
	must(err)
	_, err = objects.Resource(profiles).Namespace("default").Create(t.Context(), profile("keyless"), metav1.CreateOptions{})
	must(err)
	_, err = client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "keyless"}, Data: map[string][]byte{"kubeconfig": data}}, metav1.CreateOptions{})
	must(err)
	secret("bad", []byte("users:\n- name: u\n  user:\n    exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true}\n"))
	// Without a kubeconfig: the hub of who asks, if there is one.
	ours := hub
	ours.Kubeconfig = ""
	owned := &v1alpha1.Fleet{Name: "fleet", ClusterProfiles: &v1alpha1.FleetProfiles{FleetHub: ours, Key: "value"}}
	if _, err := Load(t.Context(), owned, options); err == nil || !strings.Contains(err.Error(), "clusterProfiles: kubeconfig: required") {
		t.Errorf("got %v without a hub", err)
	}
	withHub := options
	withHub.Hub = config
	if _, err = Load(t.Context(), owned, withHub); err == nil || !strings.Contains(err.Error(), "default/lost") {
		t.Errorf("got %v", err) // it was read, and found the profile without a Secret
	}
	fleet.ClusterProfiles = &v1alpha1.FleetProfiles{FleetHub: hub, Key: "value"}
	_, err = Load(t.Context(), fleet, options)
	for _, want := range []string{"Secret default/bad: user \"u\" runs a program", "ClusterProfile default/lost: there is no Secret", "ClusterProfile default/keyless: the Secret of the same name has no key \"value\"", "cluster one is in Secret default/one and in ClusterProfile default/one"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}

func TestForeignKubeconfigs(t *testing.T) {
	const cluster = "clusters:\n- name: c\n  cluster: {server: https://10.0.0.1}\ncontexts:\n- name: x\n  context: {cluster: c, user: u}\ncurrent-context: x\n"
	for name, test := range map[string]struct{ text, want string }{
		"a token":             {cluster + "users:\n- name: u\n  user: {token: t}\n", ""},
		"a program":           {cluster + "users:\n- name: u\n  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh}}\n", "runs a program"},
		"a plugin":            {cluster + "users:\n- name: u\n  user: {auth-provider: {name: gcp}}\n", "runs a program"},
		"a token file":        {cluster + "users:\n- name: u\n  user: {tokenFile: /etc/passwd}\n", "names a file"},
		"a key file":          {cluster + "users:\n- name: u\n  user: {client-key: /etc/passwd}\n", "names a file"},
		"an authority's file": {"clusters:\n- name: c\n  cluster: {server: https://10.0.0.1, certificate-authority: /etc/passwd}\n", "names a file"},
		"nothing":             {"", "reading the kubeconfig"},
		"too much":            {strings.Repeat("#", maxKubeconfig+1), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := foreign([]byte(test.text), options)
			if test.want == "" && (err != nil || config.Host != "https://10.0.0.1" || config.Timeout != options.Timeout) {
				t.Errorf("got %+v, %v", config, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// No kubeconfig from a cluster makes a client that reads a file or runs a program.
func FuzzForeign(f *testing.F) {
	f.Add([]byte("clusters:\n- name: c\n  cluster: {server: https://10.0.0.1}\ncontexts:\n- name: x\n  context: {cluster: c, user: u}\ncurrent-context: x\nusers:\n- name: u\n  user: {token: t}\n"))
	f.Add([]byte("users:\n- name: u\n  user: {exec: {command: x}}\n"))
	f.Add([]byte("{\"clusters\":null}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := foreign(data, options)
		if err != nil {
			return
		}
		if config.ExecProvider != nil || config.AuthProvider != nil || config.BearerTokenFile != "" || config.CertFile != "" || config.KeyFile != "" || config.CAFile != "" {
			t.Errorf("%+v", config)
		}
	})
}
