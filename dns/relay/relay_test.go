package relay_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/lab"
)

func external(name, to string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: to},
	}
}

// populate makes one of each shape of object.
func populate(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for _, s := range []*corev1.Service{
		external("elsewhere", "example.com"),
		{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Spec: corev1.ServiceSpec{ExternalIPs: []string{"192.0.2.7"}, Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}}}},
	} {
		_, err := client.CoreV1().Services("default").Create(t.Context(), s, metav1.CreateOptions{})
		check(t, err)
	}
	_, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice("headless-x", true), metav1.CreateOptions{})
	check(t, err)
}

func slice(name string, ready bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "headless"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{
			{
				Addresses: []string{"10.0.0.1"}, Hostname: ptr.To("a"), NodeName: ptr.To("n"), Zone: ptr.To("z"), Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "p", UID: "5f2a9a7e-4a43-4a1d-8d0f-0f6b0c2f9d11"},
			},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}},
		},
	}
}

// contents is everything a keeper serves, as text that can be compared.
func contents(k *keeper.Keeper) map[string]string {
	out := map[string]string{}
	for _, kind := range []store.Kind{store.Namespaces, store.Services, store.EndpointSlices} {
		for o := range k.Store().View().All(kind) {
			var text string
			switch o := o.(type) {
			case *store.Namespace:
			case *store.Service:
				s := *o
				s.Version = 0
				text = fmt.Sprintf("%+v", s)
			case *store.EndpointSlice:
				s := o.SliceMeta
				s.Version = 0
				text = fmt.Sprintf("%+v %+v", s, slices.Collect(o.Endpoints()))
			}
			out[kind.String()+" "+o.Key().String()] = text
		}
	}
	return out
}

func same(t *testing.T, what string, a, b *keeper.Keeper) {
	t.Helper()
	var diff string
	defer func() {
		if t.Failed() {
			t.Logf("%s differ (-first +second):\n%s", what, diff)
		}
	}()
	eventually(t, what+" to be the same", func() bool {
		diff = cmp.Diff(contents(a), contents(b))
		return diff == "" && len(contents(a)) > 0
	})
	diff = ""
}

// What a client has through a relay, and through a relay of a relay, is what it would have from the API server.
func TestRelayedDataIsTheSame(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 3, Pods: 12})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	populate(t, client)
	first := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "first")}})
	second := startNode(t, nodeOptions{sources: []keeper.Source{first.source(t)}})
	third := startNode(t, nodeOptions{sources: []keeper.Source{second.source(t)}})
	eventually(t, "the third to be live", third.live)
	same(t, "first and second", first.keeper, second.keeper)
	same(t, "first and third", first.keeper, third.keeper)

	// Changes go all the way, and versions with them.
	services := client.CoreV1().Services("default")
	_, err = services.Create(t.Context(), external("new", "a.example"), metav1.CreateOptions{})
	check(t, err)
	moved, err := services.Update(t.Context(), external("elsewhere", "b.example"), metav1.UpdateOptions{})
	check(t, err)
	check(t, services.Delete(t.Context(), "headless", metav1.DeleteOptions{}))
	_, err = client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice("headless-x", false), metav1.UpdateOptions{})
	check(t, err)
	eventually(t, "the changes", func() bool {
		v := third.keeper.Store().View()
		o, x := v.Service("default", "elsewhere"), v.EndpointSlice("default", "headless-x")
		return o != nil && o.ExternalName == "b.example" && v.Service("default", "headless") == nil && x != nil && x.Ready == 0 && v.Service("default", "new") != nil
	})
	if o := third.keeper.Store().View().Service("default", "elsewhere"); fmt.Sprint(o.Version) != moved.ResourceVersion {
		t.Errorf("the version came as %d, want %s", o.Version, moved.ResourceVersion)
	}
	same(t, "first and third", first.keeper, third.keeper)
	if count := asked(t, l, "first"); count["list services"] != 1 {
		t.Errorf("the API server was asked %v", count)
	}
}

// TestClientGo is what CoreDNS's kubernetes plugin does: informers, with WatchList, and lists in pages.
func TestClientGo(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 3, Pods: 12})
	direct, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	_, err = direct.CoreV1().Services("default").Create(t.Context(), external("informed", "x.example"), metav1.CreateOptions{})
	check(t, err)
	informed := slice("informed-x", true)
	informed.Labels[discoveryv1.LabelServiceName] = "informed"
	_, err = direct.DiscoveryV1().EndpointSlices("default").Create(t.Context(), informed, metav1.CreateOptions{})
	check(t, err)
	n := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "client-go")}})
	eventually(t, "the relay to be live", n.live)
	client := n.client(t)

	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Lister()
	namespaces := factory.Core().V1().Namespaces().Informer()
	endpoints := factory.Discovery().V1().EndpointSlices().Informer()
	ctx, stop := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer stop()
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Errorf("%s are not synced", kind)
		}
	}
	if s, err := services.Services("default").Get("informed"); err != nil || s.Spec.ExternalName != "x.example" {
		t.Errorf("the informer has %v (%v)", s, err)
	}
	if len(namespaces.GetStore().List()) < 4 || len(endpoints.GetStore().List()) < 1 {
		t.Error("the informers lack namespaces or endpoint slices")
	}
	check(t, direct.CoreV1().Services("default").Delete(t.Context(), "informed", metav1.DeleteOptions{}))
	eventually(t, "the deletion", func() bool { _, err := services.Services("default").Get("informed"); return err != nil })

	// Pages are of one version, whatever happens between them.
	page, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{Limit: 2})
	check(t, err)
	if len(page.Items) != 2 || page.Continue == "" {
		t.Fatalf("a page of 2 has %d and continues with %q", len(page.Items), page.Continue)
	}
	_, err = direct.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "zz-later"}}, metav1.CreateOptions{})
	check(t, err)
	eventually(t, "the namespace", func() bool { return n.keeper.Store().View().Namespace("zz-later") != nil })
	var seen []string
	for version := page.ResourceVersion; page.Continue != ""; {
		page, err = client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{Limit: 2, Continue: page.Continue})
		check(t, err)
		if page.ResourceVersion != version {
			t.Errorf("a later page is of version %s, the first of %s", page.ResourceVersion, version)
		}
		for _, item := range page.Items {
			seen = append(seen, item.Name)
		}
	}
	if slices.Contains(seen, "zz-later") || !slices.IsSorted(seen) {
		t.Errorf("the later pages have %v", seen)
	}

	selected, err := client.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=informed"})
	if err != nil || len(selected.Items) != 1 || selected.Items[0].Name != "informed-x" {
		t.Errorf("the slices of a service are %v (%v)", selected, err)
	}
	kubeSystem, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	check(t, err)
	truth, err := direct.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	check(t, err)
	if kubeSystem.UID != truth.UID {
		t.Errorf("the cluster's identity is %s, want %s", kubeSystem.UID, truth.UID)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Error(err)
	}
	if _, lists, err := client.Discovery().ServerGroupsAndResources(); err != nil || len(lists) != 2 {
		t.Errorf("discovery has %v (%v)", lists, err)
	}
}

// fleet starts n nodes behind a relay.
func fleet(t *testing.T, n int, sources func(i int) []keeper.Source) []*keeper.Keeper {
	t.Helper()
	var keepers []*keeper.Keeper
	for i := range n {
		keepers = append(keepers, startNode(t, nodeOptions{sources: sources(i)}).keeper)
	}
	for _, k := range keepers {
		eventually(t, "every node to be live", func() bool { return k.Status().State == keeper.Live })
	}
	return keepers
}

// Twenty instances cost the API server what one does, over its restart too.
func TestTwentyCostOne(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	populate(t, client)
	n := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "relay")}, spread: 2 * time.Second})
	eventually(t, "the relay to be live", n.live)
	keepers := fleet(t, 20, func(int) []keeper.Source { return []keeper.Source{n.source(t)} })
	one := func(when string, most int) {
		t.Helper()
		count := asked(t, l, "relay")
		for _, kind := range []string{"namespaces", "services", "endpointslices"} {
			if count["list "+kind] > most || count["list "+kind] < 1 {
				t.Errorf("%s the API server was asked for %d lists of %s, want ≤ %d", when, count["list "+kind], kind, most)
			}
		}
		t.Logf("%s: %v", when, count)
	}
	one("with 20 instances", 1)

	_, err = client.CoreV1().Services("default").Create(t.Context(), external("just-before", "a.example"), metav1.CreateOptions{})
	check(t, err)
	api, _ := l.Process(lab.KindAPIServer)
	check(t, api.Restart(t.Context()))
	_, err = client.CoreV1().Services("default").Create(t.Context(), external("just-after", "a.example"), metav1.CreateOptions{})
	check(t, err)
	for _, k := range keepers {
		eventually(t, "the service made after the restart", func() bool {
			v := k.Store().View()
			return v.Service("default", "just-after") != nil && v.Service("default", "just-before") != nil
		})
		same(t, "relay and client", n.keeper, k)
	}
	one("after its restart", 2)
}

// The relay dies: clients go on with the next one, and then with the API server, from the version they have.
func TestFailover(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	services := client.CoreV1().Services("default")
	_, err = services.Create(t.Context(), external("constant", "always.example"), metav1.CreateOptions{})
	check(t, err)
	first := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "relay-1")}})
	second := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "relay-2")}})
	eventually(t, "the relays to be live", func() bool { return first.live() && second.live() })
	n := startNode(t, nodeOptions{sources: []keeper.Source{first.source(t), second.source(t), apiSource(t, l, "failover-client")}})
	eventually(t, "the client to be live", n.live)

	// Somebody asks all the time.
	asking, stop := context.WithCancel(t.Context())
	var asked1 sync.WaitGroup
	wrong := 0
	asked1.Go(func() {
		for asking.Err() == nil {
			o := n.keeper.Store().View().Service("default", "constant")
			if o == nil || o.ExternalName != "always.example" || n.keeper.Store().View().Namespace("default") == nil {
				wrong++
			}
			<-time.After(100 * time.Microsecond)
		}
	})
	appears := func(name string) {
		t.Helper()
		_, err := services.Create(t.Context(), external(name, "a.example"), metav1.CreateOptions{})
		check(t, err)
		eventually(t, name, func() bool { return n.keeper.Store().View().Service("default", name) != nil })
	}
	appears("through-the-first")
	first.stopServer()
	check(t, services.Delete(t.Context(), "through-the-first", metav1.DeleteOptions{})) // while nobody tells the client
	appears("through-the-second")
	eventually(t, "the second relay to be followed", func() bool { return n.keeper.Status().Source == second.url })
	second.stopServer()
	appears("directly")
	eventually(t, "the API server to be followed", func() bool { return n.keeper.Status().Class == keeper.API })
	first.serve()
	t.Cleanup(func() { first.stopServer() })
	eventually(t, "the first relay to be preferred again", func() bool { return n.keeper.Status().Source == first.url })
	appears("through-the-first-again")
	eventually(t, "the deletion", func() bool { return n.keeper.Store().View().Service("default", "through-the-first") == nil })
	stop()
	asked1.Wait()
	if wrong > 0 {
		t.Errorf("%d wrong answers", wrong)
	}
	// Versions were enough all the way: nobody listed again.
	if count := asked(t, l, "failover-client"); count["list services"]+count["list namespaces"]+count["list endpointslices"] > 0 {
		t.Errorf("the API server was asked for lists: %v", count)
	}
	if held := n.keeper.Status().Held; held > 0 {
		t.Errorf("%d removals are held", held)
	}
}

// A relay whose API server is gone serves what it has, and its clients know how old that is: ages add up.
func TestAgesAddUp(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	state := t.TempDir() + "/state"
	n := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "aging")}, state: state})
	eventually(t, "the relay to be live", n.live)
	eventually(t, "a snapshot", func() bool { return !n.keeper.Status().SnapshotSaved.IsZero() })
	api, _ := l.Process(lab.KindAPIServer)
	check(t, api.Stop(t.Context()))
	eventually(t, "the relay to be stale", func() bool { return n.keeper.Status().State == keeper.Stale })
	confirmed := n.keeper.Status().Confirmed
	n.stop()

	restarted := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "aging")}, state: state})
	chained := startNode(t, nodeOptions{sources: []keeper.Source{restarted.source(t)}})
	end := startNode(t, nodeOptions{sources: []keeper.Source{chained.source(t)}})
	eventually(t, "data at the end of the chain", func() bool { return end.keeper.Status().Ready() })
	same(t, "relay and client", restarted.keeper, end.keeper)
	now := time.Now()
	// Rounded up to seconds at each step, and never younger than it is.
	if got, least := end.keeper.Status().Age(now), now.Sub(confirmed)-2*time.Second; got < least || got > least+time.Minute {
		t.Errorf("the client takes the data to be %s old, want %s or little more", got, least)
	}
	back := time.Now()
	check(t, api.Start(t.Context()))
	eventually(t, "fresh data at the end", func() bool {
		s := end.keeper.Status()
		return s.State == keeper.Live && s.Confirmed.After(back)
	})
}

// A relay that was restarted without its API server has older data than its clients. They do not go back to it.
func TestNobodyGoesBackInTime(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Admin))
	check(t, err)
	state := t.TempDir() + "/state"
	papers := newPapers(t)
	n := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "back")}, state: state, papers: &papers})
	eventually(t, "a snapshot", func() bool { return !n.keeper.Status().SnapshotSaved.IsZero() })
	n.stop() // and its snapshot is of now
	follower := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "back-2"), n.source(t)}})
	eventually(t, "the client to be live", follower.live)
	for i := range 3 {
		_, err = client.CoreV1().Services("default").Create(t.Context(), external(fmt.Sprint("later-", i), "a.example"), metav1.CreateOptions{})
		check(t, err)
	}
	eventually(t, "the services", func() bool { return follower.keeper.Store().View().Service("default", "later-2") != nil })
	api, _ := l.Process(lab.KindAPIServer)
	check(t, api.Stop(t.Context()))
	old := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, l, "back")}, state: state, papers: &papers, address: n.addr})
	if old.keeper.Store().View().Service("default", "later-2") != nil {
		t.Fatal("the relay's snapshot is newer than the test thinks")
	}
	eventually(t, "the client to look at the relay", func() bool { return follower.keeper.Status().State == keeper.Stale })
	looking := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-looking:
			done = true
		case <-tick.C:
			if s := follower.keeper.Status(); follower.keeper.Store().View().Service("default", "later-2") == nil || s.Held > 0 {
				t.Fatalf("it went back to older data: %+v", s)
			}
		}
	}
}

// Two clusters' relays are swapped: neither is used.
func TestForeignRelayIsRefused(t *testing.T) {
	ours, theirs := lab.Start(t, lab.Options{}), lab.Start(t, lab.Options{Dir: t.TempDir()})
	foreign := startNode(t, nodeOptions{sources: []keeper.Source{apiSource(t, theirs, "foreign")}})
	eventually(t, "the foreign relay to be live", foreign.live)
	client, err := kubernetes.NewForConfig(ours.RESTConfig(lab.Admin))
	check(t, err)
	kubeSystem, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	check(t, err)
	peer, err := source.NewPeer(foreign.papers.config(foreign.url, "node"), 0)
	check(t, err)
	n := startNode(t, nodeOptions{sources: []keeper.Source{foreign.source(t)}, fetchers: []keeper.Fetcher{peer}, cluster: string(kubeSystem.UID)})
	refused := time.After(5 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-refused:
			done = true
		case <-tick.C:
			if n.keeper.Status().Ready() {
				t.Fatalf("a foreign cluster is served: %+v", n.keeper.Status())
			}
		}
	}
	// The same relay, without the name of another cluster, and a peer of it: both are.
	if k := startNode(t, nodeOptions{sources: []keeper.Source{foreign.source(t)}}); true {
		eventually(t, "the relay's own cluster", k.live)
	}
	k := startNode(t, nodeOptions{fetchers: []keeper.Fetcher{peer}})
	eventually(t, "the peer's data", func() bool { return k.keeper.Status().Class == keeper.Peer })
	same(t, "peer and client", foreign.keeper, k.keeper)
	if !strings.HasPrefix(k.keeper.Status().Source, "peer https://") {
		t.Errorf("the source is %q", k.keeper.Status().Source)
	}
}
