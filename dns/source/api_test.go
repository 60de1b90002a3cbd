package source_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/lab"
)

func cluster(t *testing.T) *lab.Lab { return lab.Start(t, lab.Options{Nodes: 3, Pods: 12}) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, l *lab.Lab, o source.Selectors) (*source.API, *kubernetes.Clientset) {
	t.Helper()
	config := l.RESTConfig(lab.Admin)
	s, err := source.NewAPI(config, keeper.API, o)
	check(t, err)
	t.Cleanup(s.Close)
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	return s, client
}

func names(t *testing.T, s *source.API, kind store.Kind) (map[string]store.Object, string) {
	t.Helper()
	found := map[string]store.Object{}
	version, err := s.List(t.Context(), kind, func(o store.Object) error {
		if o.Kind() != kind {
			t.Errorf("listing %s brought %s", kind, o.Kind())
		}
		if _, twice := found[o.Key().String()]; twice {
			t.Errorf("%s came twice", o.Key())
		}
		found[o.Key().String()] = o
		return nil
	})
	check(t, err)
	return found, version
}

func TestList(t *testing.T) {
	l := cluster(t)
	s, client := open(t, l, source.Selectors{})
	source.SetPageSize(s, 2) // so that the control plane's few objects are many pages
	services, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	namespaces, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
	check(t, err)
	slices, err := client.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	for kind, want := range map[store.Kind]int{
		store.Services: len(services.Items), store.Namespaces: len(namespaces.Items),
		store.EndpointSlices: len(slices.Items), store.Pods: len(pods.Items),
	} {
		found, version := names(t, s, kind)
		if len(found) != want || want < 3 {
			t.Errorf("%d %s, the API has %d (and the test needs several pages)", len(found), kind, want)
		}
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			t.Errorf("the version of %s is %q", kind, version)
		}
	}
	found, _ := names(t, s, store.Services)
	if kube, ok := found["default/kubernetes"].(*store.Service); !ok || len(kube.ClusterIPs) != 1 || len(kube.Ports) != 1 {
		t.Errorf("the API server's own service is %+v", found["default/kubernetes"])
	}
	kubeSystem, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
	check(t, err)
	uid, err := s.Cluster(t.Context())
	check(t, err)
	if uid != string(kubeSystem.UID) {
		t.Errorf("the cluster is %s, want %s", uid, kubeSystem.UID)
	}
	// The lab has no custom resource of service imports.
	if _, err := s.List(t.Context(), store.ServiceImports, func(store.Object) error { return nil }); !errors.Is(err, keeper.ErrNoKind) {
		t.Errorf("listing service imports got %v, want %v", err, keeper.ErrNoKind)
	}
	if err := s.Watch(t.Context(), store.ServiceImports, "1", func() {}, func(keeper.Event) error { return nil }); !errors.Is(err, keeper.ErrNoKind) {
		t.Errorf("watching service imports got %v, want %v", err, keeper.ErrNoKind)
	}
	stop := errors.New("enough")
	if _, err := s.List(t.Context(), store.Namespaces, func(store.Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the list went on after %v: %v", stop, err)
	}
}

func selector(t *testing.T, text string) labels.Selector {
	t.Helper()
	s, err := labels.Parse(text)
	check(t, err)
	return s
}

func TestSelectors(t *testing.T) {
	l := cluster(t)
	s, client := open(t, l, source.Selectors{Objects: selector(t, "dns=yes"), Namespaces: selector(t, "kubernetes.io/metadata.name=default")})
	for name, labels := range map[string]map[string]string{"selected": {"dns": "yes"}, "not-selected": nil} {
		_, err := client.CoreV1().Services("default").Create(t.Context(), headless(name, labels), metav1.CreateOptions{})
		check(t, err)
	}
	found, _ := names(t, s, store.Services)
	if len(found) != 1 || found["default/selected"] == nil {
		t.Errorf("the selector brought %v", found)
	}
	if found, _ = names(t, s, store.Namespaces); len(found) != 1 || found["default"] == nil {
		t.Errorf("the namespaces' selector brought %v", found)
	}
}

func headless(name string, labels map[string]string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
}

// following is a watch of a test.
type following struct {
	t      *testing.T
	events chan keeper.Event
	ended  chan error
	stop   context.CancelFunc
}

func follow(t *testing.T, s *source.API, kind store.Kind, version string) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &following{t: t, events: make(chan keeper.Event), ended: make(chan error, 1), stop: cancel}
	opened := make(chan struct{})
	go func() {
		f.ended <- s.Watch(ctx, kind, version, func() { close(opened) }, func(e keeper.Event) error {
			select {
			case f.events <- e:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	t.Cleanup(cancel)
	select {
	case <-opened:
	case err := <-f.ended:
		f.ended <- err
	case <-time.After(20 * time.Second):
		t.Fatal("the watch is not answered")
	}
	return f
}

func (f *following) next() keeper.Event {
	f.t.Helper()
	for {
		select {
		case e := <-f.events:
			if e.Type != keeper.Bookmark {
				return e
			}
		case err := <-f.ended:
			f.t.Fatalf("the watch ended with %v", err)
		case <-time.After(20 * time.Second):
			f.t.Fatal("no event")
		}
	}
}

func (f *following) end() error {
	f.t.Helper()
	for {
		select {
		case <-f.events:
		case err := <-f.ended:
			return err
		case <-time.After(20 * time.Second):
			f.t.Fatal("the watch does not end")
		}
	}
}

func TestWatch(t *testing.T) {
	l := cluster(t)
	s, client := open(t, l, source.Selectors{})
	_, version := names(t, s, store.Services)
	services := client.CoreV1().Services("default")
	made, err := services.Create(t.Context(), headless("watched", nil), metav1.CreateOptions{})
	check(t, err)

	// From the version of the list: nothing that happened since is missed.
	f := follow(t, s, store.Services, version)
	if e := f.next(); e.Type != keeper.Put || e.Key.String() != "default/watched" || e.Version != made.ResourceVersion || !e.Object.(*store.Service).Headless {
		t.Errorf("the first event is %+v", e)
	}
	check(t, services.Delete(t.Context(), "watched", metav1.DeleteOptions{}))
	e := f.next()
	if e.Type != keeper.Delete || e.Key.String() != "default/watched" || e.Object == nil {
		t.Errorf("the second event is %+v", e)
	}
	f.stop()
	if err := f.end(); !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v, want %v", err, context.Canceled)
	}

	if err := follow(t, s, store.Services, "abc").end(); !errors.Is(err, keeper.ErrGone) {
		t.Errorf("a watch from a version that is none ended with %v, want %v", err, keeper.ErrGone)
	}
}

// TestWatchFromTheFuture is what a DNS server meets whose API server's etcd was restored from a backup.
func TestWatchFromTheFuture(t *testing.T) {
	l := cluster(t)
	s, _ := open(t, l, source.Selectors{})
	_, version := names(t, s, store.Services)
	at, err := strconv.ParseUint(version, 10, 64)
	check(t, err)
	if err := follow(t, s, store.Services, fmt.Sprint(at+1_000_000)).end(); !errors.Is(err, keeper.ErrTooNew) {
		t.Errorf("the watch ended with %v, want %v", err, keeper.ErrTooNew)
	}
}

// TestWatchAfterARestart: an API server knows only the versions it saw itself.
func TestWatchAfterARestart(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	s, client := open(t, l, source.Selectors{})
	_, before := names(t, s, store.Services)
	for i := range 3 {
		_, err := client.CoreV1().Services("default").Create(t.Context(), headless("later-"+strconv.Itoa(i), nil), metav1.CreateOptions{})
		check(t, err)
	}
	_, after := names(t, s, store.Services)
	server, ok := l.Process(lab.KindAPIServer)
	if !ok {
		t.Fatal("the lab has no API server")
	}
	f := follow(t, s, store.Services, after)
	check(t, server.Restart(t.Context()))
	if err := f.end(); errors.Is(err, keeper.ErrGone) || errors.Is(err, keeper.ErrTooNew) {
		t.Errorf("the watch was cut with %v, want an end the keeper watches again after", err)
	}
	if err := follow(t, s, store.Services, before).end(); !errors.Is(err, keeper.ErrGone) {
		t.Errorf("a watch from before the restart ended with %v, want %v", err, keeper.ErrGone)
	}
}

func TestUnreachable(t *testing.T) {
	l := cluster(t)
	config := l.RESTConfig(lab.Admin)
	config.Host = "https://127.0.0.1:1"
	s, err := source.NewAPI(config, keeper.API, source.Selectors{})
	check(t, err)
	defer s.Close()
	_, listing := s.List(t.Context(), store.Services, func(store.Object) error { return nil })
	_, asking := s.Cluster(t.Context())
	watching := s.Watch(t.Context(), store.Services, "1", func() { t.Error("it was opened") }, func(keeper.Event) error { return nil })
	for _, err := range []error{listing, asking, watching} {
		if err == nil || errors.Is(err, keeper.ErrGone) || errors.Is(err, keeper.ErrTooNew) || errors.Is(err, keeper.ErrNoKind) {
			t.Errorf("got %v", err)
		}
	}
}

// What kubeadm grants CoreDNS is enough: list and watch, and no get.
func TestRoleOfCoreDNSIsEnough(t *testing.T) {
	l := cluster(t)
	config := l.RESTConfig(lab.User("system:serviceaccount:kube-system:coredns", "system:serviceaccounts", "system:serviceaccounts:kube-system"))
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("the lab's role of CoreDNS lets it get, which kubeadm's does not: %v", err)
	}
	s, err := source.NewAPI(config, keeper.API, source.Selectors{})
	check(t, err)
	t.Cleanup(s.Close)
	all, _ := open(t, l, source.Selectors{})
	want, err := all.Cluster(t.Context())
	check(t, err)
	if got, err := s.Cluster(t.Context()); err != nil || got != want {
		t.Errorf("the cluster is %q, %v, want %s", got, err, want)
	}
	_, version := names(t, s, store.Services)
	enough := errors.New("enough")
	opened := false
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = s.Watch(ctx, store.Services, version, func() { opened = true; cancel() }, func(keeper.Event) error { return enough })
	if !opened {
		t.Errorf("the watch did not open: %v", err)
	}
	number, err := strconv.ParseUint(version, 10, 64)
	check(t, err)
	err = s.Watch(t.Context(), store.Services, strconv.FormatUint(number+1_000_000, 10), func() {}, func(keeper.Event) error { return enough })
	if !errors.Is(err, keeper.ErrTooNew) {
		t.Errorf("watching from a version to come got %v, want %v", err, keeper.ErrTooNew)
	}
}
