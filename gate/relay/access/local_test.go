package access_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func TestLocal(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	client, err := dynamic.NewForConfig(l.RESTConfig(lab.Masters))
	check(t, err)
	create := func(group, version, resource, object string) {
		t.Helper()
		var u unstructured.Unstructured
		check(t, json.Unmarshal([]byte(object), &u.Object))
		_, err := client.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).Create(t.Context(), &u, metav1.CreateOptions{})
		check(t, err)
	}
	create("apiregistration.k8s.io", "v1", "apiservices", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1beta1.metrics.example.com"},
		"spec":{"group":"metrics.example.com","version":"v1beta1","groupPriorityMinimum":100,"versionPriority":100,"insecureSkipTLSVerify":true,
		"service":{"name":"elsewhere","namespace":"default"}}}`)
	create("apiextensions.k8s.io", "v1", "customresourcedefinitions", `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.example.com"},
		"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"boats","singular":"boat","kind":"Boat"},
		"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`)
	services := client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	testkit.Within(t, "the API server has registered the custom resource's group", 20*time.Second, func() bool {
		_, err := services.Get(t.Context(), "v1.example.com", metav1.GetOptions{})
		return err == nil
	})
	r := open(t, l, v1alpha1.RelayReviews{})
	for _, tc := range []struct {
		group, version string
		want           bool
	}{
		{"", "v1", true}, {"apps", "v1", true}, {"discovery.k8s.io", "v1", true}, {"apiextensions.k8s.io", "v1", true},
		{"example.com", "v1", true}, {"example.com", "v2", false},
		{"metrics.example.com", "v1beta1", false}, {"nobody.example.com", "v1", false}, {"apps", "v9", false},
	} {
		if got := r.Local(t.Context(), tc.group, tc.version); got != tc.want {
			t.Errorf("%s/%s is the API server's own: %t, want %t", tc.group, tc.version, got, tc.want)
		}
	}
}

// unreachable is a way upstream that leads nowhere.
type unreachable struct{}

func (unreachable) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody there")
}

func TestLocalBeforeAnythingIsKnown(t *testing.T) {
	a, err := access.New(access.Options{Upstream: unreachable{}, Log: slog.New(slog.DiscardHandler),
		Reviews: v1alpha1.RelayReviews{AuthorizationTTL: ttl(time.Second), TokenTTL: ttl(time.Second)}})
	check(t, err)
	for _, tc := range []struct {
		group, version string
		want           bool
	}{{"", "v1", true}, {"apps", "v1", true}, {"discovery.k8s.io", "v1", true}, {"example.com", "v1", false}, {"metrics.k8s.io", "v1beta1", false}} {
		if got := a.Local(t.Context(), tc.group, tc.version); got != tc.want {
			t.Errorf("%s/%s: %t, want %t", tc.group, tc.version, got, tc.want)
		}
	}
}
