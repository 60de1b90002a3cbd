package relay_test

import (
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/lab"
)

// A relay that was started with another cluster's snapshot (a cloned disk) passes it on only until the API server says so. Then
// nothing of it is left: watches of it end, and lists are the API server's.
func TestForeignSnapshotIsNotRelayedOn(t *testing.T) {
	dir := t.TempDir()
	disk, err := snapshot.Open(snapshot.Options{Dir: dir})
	check(t, err)
	check(t, disk.Save(snapshot.Meta{
		Cluster: "theirs", Generation: 1, Confirmed: time.Now(),
		Kinds: map[string]snapshot.KindMeta{"namespaces": {Version: "1000000"}, "services": {Version: "1000000"}, "endpointslices": {Version: "1000000"}},
	}, slices.Values([]store.Object{
		&store.Namespace{Name: metav1.NamespaceSystem}, &store.Namespace{Name: "default"}, &store.Service{Namespace: "default", Name: "theirs"},
	})))
	check(t, disk.Close())
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	api, _ := l.Process(lab.KindAPIServer)
	check(t, api.Stop(t.Context()))
	n := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "foreign")}, state: dir})
	client := n.client(t)
	services := client.CoreV1().Services("default")
	eventually(t, "what was restored", func() bool { _, err := services.Get(t.Context(), "theirs", metav1.GetOptions{}); return err == nil })
	watching, err := services.Watch(t.Context(), metav1.ListOptions{ResourceVersion: "1000000"})
	check(t, err)
	defer watching.Stop()

	check(t, api.Start(t.Context()))
	eventually(t, "the API server's data", n.live)
	if _, err := services.Get(t.Context(), "theirs", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other cluster's service is answered with %v", err)
	}
	if _, err := services.Get(t.Context(), "kubernetes", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	direct, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	truth, err := direct.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	check(t, err)
	if ns, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{}); err != nil || ns.UID != truth.UID {
		t.Errorf("the cluster is %v (%v), want %s", ns, err, truth.UID)
	}
	for {
		select {
		case e, more := <-watching.ResultChan():
			switch {
			case !more || e.Type == watch.Error:
				return // it has to list again
			case e.Type != watch.Bookmark:
				t.Fatalf("who watches the other cluster's data is told %v", e)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a watch of the other cluster's data goes on")
		}
	}
}
