package survive_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/gate/relay/survive"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// Every answer is, byte for byte where that is fixed, what the API server itself answers.
func TestAnswersAreTheAPIServers(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 2, Pods: 4})
	gatetest.GrantRelay(t, l)
	masters := l.RESTConfig(lab.Masters)
	boats(t, l, masters)
	// A LIST long enough to be compressed.
	client, err := kubernetes.NewForConfig(masters)
	check(t, err)
	for _, name := range []string{"a", "b"} {
		_, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"big": name}, Annotations: map[string]string{"text": string(bytes.Repeat([]byte("long "), 20_000))}},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		check(t, err)
	}
	for _, p := range l.Processes() { // nothing shall change
		if p.Kind != lab.KindEtcd && p.Kind != lab.KindAPIServer {
			check(t, p.Stop(t.Context()))
		}
	}
	own := gatetest.Own(t, l, gatetest.RelayUser)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	second := &metav1.Duration{Duration: time.Second}
	reviewer, err := access.New(access.Options{Upstream: own, Log: log, Reviews: v1alpha1.RelayReviews{AuthorizationTTL: second, TokenTTL: second}})
	check(t, err)
	s, err := survive.New(survive.Options{Upstream: own, Reviewer: reviewer, Dir: t.TempDir(), Log: log, Survive: v1alpha1.RelaySurvive{
		Resources: []string{"services", "nodes", "pods", "endpointslices.discovery.k8s.io", "boats.example.com"}, After: second, GrantTTL: &metav1.Duration{Duration: time.Hour}}})
	check(t, err)
	running := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(running); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-running })
	testkit.Within(t, "everything is followed", 20*time.Second, func() bool {
		return !slices.ContainsFunc(s.Status().Resources, func(r survive.ResourceStatus) bool { return r.Objects == 0 })
	})
	s.Pretend()
	caller := flow.Caller{User: "seakeep-lab", Groups: []string{"system:masters"}, Certainty: flow.CertificateVerified}
	direct, err := rest.HTTPClientFor(masters)
	check(t, err)
	const partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	for _, target := range []string{
		"/api/v1/services?resourceVersion=0", "/api/v1/services?resourceVersion=0&labelSelector=big", "/api/v1/services?resourceVersion=0&limit=1&labelSelector=nothing",
		"/api/v1/namespaces/default/services?resourceVersion=0&fieldSelector=metadata.name%3Da", "/api/v1/namespaces/default/services/a?resourceVersion=0",
		"/api/v1/nodes?resourceVersion=0", "/api/v1/nodes/" + lab.NodeName(0) + "?resourceVersion=0", "/api/v1/pods?resourceVersion=0",
		"/api/v1/pods?resourceVersion=0&fieldSelector=spec.nodeName%3D" + lab.NodeName(1), "/apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0",
		"/apis/example.com/v1/boats?resourceVersion=0", "/apis/example.com/v1/namespaces/default/boats/lifeboat?resourceVersion=0",
	} {
		path, _, _ := strings.Cut(target, "?")
		object := strings.HasSuffix(path, "/a") || strings.HasSuffix(path, "/lifeboat") || strings.HasSuffix(path, lab.NodeName(0))
		for _, accept := range []string{
			"application/json", "application/vnd.kubernetes.protobuf,application/json", "", "*/*",
			"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json", partial + ",application/json",
		} {
			if !object {
				accept = strings.ReplaceAll(accept, "PartialObjectMetadata", "PartialObjectMetadataList")
			}
			for _, encoding := range []string{"", "gzip"} {
				u, err := url.Parse(l.APIServerURL(0) + target)
				check(t, err)
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
				check(t, err)
				if accept != "" {
					r.Header.Set("Accept", accept)
				}
				r.Header.Set("Accept-Encoding", encoding)
				if encoding == "" {
					r.Header.Set("Accept-Encoding", "identity")
				}
				response, err := direct.Do(r)
				check(t, err)
				want, err := io.ReadAll(response.Body)
				check(t, err)
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					t.Fatalf("%s as %q: the API server says %s", target, accept, response.Status)
				}

				f, err := flow.Classify(r, caller, flow.Standard, time.Now())
				check(t, err)
				s.Grant(f)
				w := httptest.NewRecorder()
				dones := 0
				if !s.Serve(w, r, f, func(upstream.Result) { dones++ }) || dones != 1 {
					t.Errorf("%s as %q: not served, done %d times", target, accept, dones)
					continue
				}
				for _, header := range []string{"Content-Type", "Content-Encoding", "Cache-Control", "Vary"} {
					if got, want := w.Header().Get(header), response.Header.Get(header); got != want {
						t.Errorf("%s as %q, %s: %s is %q, the API server's %q", target, accept, encoding, header, got, want)
					}
				}
				if diff := cmp.Diff(readable(t, response.Header, want), readable(t, w.Header(), w.Body.Bytes())); diff != "" {
					t.Errorf("%s as %q, %s (-API server +ours):\n%.2000s", target, accept, encoding, diff)
				}
			}
		}
	}
}

// readable is an answer as something to compare: JSON decoded, anything else as it is. The version of a list is that of the
// moment, which differs; so it is taken out where it stands.
func readable(t *testing.T, header http.Header, body []byte) any {
	t.Helper()
	if header.Get("Content-Encoding") == "gzip" {
		in, err := gzip.NewReader(bytes.NewReader(body))
		check(t, err)
		body, err = io.ReadAll(in)
		check(t, err)
	}
	if header.Get("Content-Type") != "application/json" {
		return withoutListVersion(t, body)
	}
	var decoded map[string]any
	check(t, json.Unmarshal(body, &decoded))
	if _, ok := decoded["items"]; ok {
		delete(decoded["metadata"].(map[string]any), "resourceVersion")
	}
	return decoded
}

func boats(t *testing.T, l *lab.Lab, c *rest.Config) {
	t.Helper()
	client, err := dynamic.NewForConfig(c)
	check(t, err)
	create := func(resource schema.GroupVersionResource, namespace, text string) error {
		var u unstructured.Unstructured
		check(t, json.Unmarshal([]byte(text), &u.Object))
		_, err := client.Resource(resource).Namespace(namespace).Create(t.Context(), &u, metav1.CreateOptions{})
		return err
	}
	check(t, create(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "",
		`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
		"names":{"plural":"boats","singular":"boat","kind":"Boat"},"versions":[{"name":"v1","served":true,"storage":true,
		"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`))
	deadline := time.After(20 * time.Second)
	for create(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "boats"}, "default",
		`{"apiVersion":"example.com/v1","kind":"Boat","metadata":{"name":"lifeboat","labels":{"big":"no"}},"spec":{"oars":4,"draught":0.5}}`) != nil {
		select {
		case <-deadline:
			t.Fatal("no boats")
		case <-time.After(50 * time.Millisecond):
		}
	}
	kube, err := kubernetes.NewForConfig(c)
	check(t, err)
	patch := []byte(`[{"op":"add","path":"/rules/-","value":{"apiGroups":["example.com"],"resources":["boats"],"verbs":["list","watch"]}}]`)
	_, err = kube.RbacV1().ClusterRoles().Patch(t.Context(), "seakeep:relay:reads", "application/json-patch+json", patch, metav1.PatchOptions{})
	check(t, err)
}

// withoutListVersion clears the version in a protobuf list's metadata (field 1, of which it is field 2).
func withoutListVersion(t *testing.T, body []byte) string {
	t.Helper()
	rest, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	if !ok {
		t.Fatalf("no protobuf: %.40q", body)
	}
	var unknown runtime.Unknown
	check(t, unknown.Unmarshal(rest))
	if !strings.HasSuffix(unknown.Kind, "List") {
		return string(body)
	}
	number, kind, n := protowire.ConsumeTag(unknown.Raw)
	if number != 1 || kind != protowire.BytesType {
		t.Fatalf("a list begins with field %d", number)
	}
	encoded, m := protowire.ConsumeBytes(unknown.Raw[n:])
	var head metav1.ListMeta
	check(t, head.Unmarshal(encoded))
	head.ResourceVersion = ""
	return unknown.APIVersion + " " + unknown.Kind + " " + head.String() + string(unknown.Raw[n+m:])
}
