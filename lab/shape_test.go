package lab

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// What a shape says is there afterwards, as many and as large; what is not built is said.
func TestBuildShape(t *testing.T) {
	s := &v1alpha1.ClusterShape{
		APIServers: v1alpha1.ShapeServers{Count: 1},
		Objects: []v1alpha1.ShapeObjects{
			{Resource: "nodes", Count: 4}, {Resource: "pods", Count: 20, Bytes: 9000}, {Resource: "configmaps", Count: 40, Bytes: 2000},
			{Resource: "secrets", Count: 5}, {Resource: "services", Count: 12}, {Group: "custom-1", Resource: "custom-1", Count: 7, Bytes: 1000},
			{Group: "apps", Resource: "replicasets", Count: 300},
		},
		Watches: []v1alpha1.ShapeWatches{{Resource: "pods", Count: 5}, {Resource: "leases", Group: "coordination.k8s.io", Count: 1}},
		Requests: []v1alpha1.ShapeRequests{
			{Verb: "LIST", Resource: "configmaps", PerThousandSeconds: 8000}, {Verb: "PATCH", Resource: "events", PerThousandSeconds: 500},
		},
	}
	if errs := s.Validate(); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	o := Options{Dir: t.TempDir()}
	o.SetShape(s)
	l := Start(t, o)
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := l.BuildShape(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"300 replicasets", "1 watches of leases", "PATCH of events, 0.5/s"}; !slices.Equal(left, want) {
		t.Errorf("left out: %q, want %q", left, want)
	}
	client := clientOf(t, l, Admin)
	maps, err := client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, m := range maps.Items {
		if strings.HasPrefix(m.Name, "configmaps-") {
			if n := len(m.Data["data"]); n < 1500 || n > 2000 {
				t.Errorf("%s has %d bytes of data, want about 2000 in all", m.Name, n)
			}
			made++
		}
	}
	services, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(services.Items) != 12 || made != 40 {
		t.Errorf("%d services and %d ConfigMaps, want 12 and 40 (%v)", len(services.Items), made, err)
	}
	text, err := client.Discovery().RESTClient().Get().AbsPath("/apis/shape.seakeep.dev/v1/custom5").DoRaw(t.Context())
	var custom struct{ Items []any }
	if err == nil {
		err = json.Unmarshal(text, &custom)
	}
	if err != nil || len(custom.Items) != 7 {
		t.Errorf("%d custom resources, want 7 (%v)", len(custom.Items), err)
	}
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name"})
	if err != nil || len(pods.Items) != 20 {
		t.Fatalf("%d pods, want 20 (%v)", len(pods.Items), err)
	}
	if n := pods.Items[0].Size(); n < 7000 || n > 11000 {
		t.Errorf("a pod has %d bytes, want about 9000", n)
	}
	const user = "system:serviceaccount:shape-0:shape-client"
	eventually(t, "clients that watch, and that ask eight times a second", func() bool {
		got := audited(t, l, "client-1/1")
		return got[user] >= 4 && audited(t, l, "client-2/1")[user] > 20
	})
	// Again is the same as once.
	if _, err := l.BuildShape(t.Context(), s); err != nil {
		t.Error(err)
	}
}
