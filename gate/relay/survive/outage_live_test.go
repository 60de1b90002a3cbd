package survive_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/relay/survive"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

type userInfo = user.Info

// unpacked is everything behind a state file's first line, as far as it can be unpacked.
func unpacked(data []byte) string {
	_, body, _ := bytes.Cut(data, []byte{'\n'})
	in, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return ""
	}
	text, _ := io.ReadAll(in)
	return string(text)
}

// proxyLike is what kube-proxy runs: informers of services, endpointslices and nodes.
type proxyLike struct {
	services, slices, nodes cache.SharedIndexInformer
	sent                    *requests
	stop                    context.CancelFunc
}

func startProxy(t testing.TB, c *rest.Config) *proxyLike {
	t.Helper()
	sent := &requests{n: map[string]int{}}
	c = rest.CopyConfig(c)
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { sent.next = next; return sent })
	factory := informers.NewSharedInformerFactory(gatetest.Clientset(t, c), 0)
	p := &proxyLike{
		services: factory.Core().V1().Services().Informer(),
		slices:   factory.Discovery().V1().EndpointSlices().Informer(),
		nodes:    factory.Core().V1().Nodes().Informer(),
		sent:     sent,
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	p.stop = cancel
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	return p
}

func (p *proxyLike) synced() bool {
	return p.services.HasSynced() && p.slices.HasSynced() && p.nodes.HasSynced()
}

// world is what there is of what kube-proxy reads, by name.
type world struct {
	Services map[string]corev1.Service
	Slices   map[string]discoveryv1.EndpointSlice
	Nodes    map[string]corev1.Node
}

func (p *proxyLike) world() world {
	w := world{map[string]corev1.Service{}, map[string]discoveryv1.EndpointSlice{}, map[string]corev1.Node{}}
	for _, o := range p.services.GetStore().List() {
		w.Services[o.(*corev1.Service).Namespace+"/"+o.(*corev1.Service).Name] = *o.(*corev1.Service)
	}
	for _, o := range p.slices.GetStore().List() {
		w.Slices[o.(*discoveryv1.EndpointSlice).Namespace+"/"+o.(*discoveryv1.EndpointSlice).Name] = *o.(*discoveryv1.EndpointSlice)
	}
	for _, o := range p.nodes.GetStore().List() {
		w.Nodes[o.(*corev1.Node).Name] = *o.(*corev1.Node)
	}
	return w
}

func worldOf(t testing.TB, c *kubernetes.Clientset) world {
	t.Helper()
	w := world{map[string]corev1.Service{}, map[string]discoveryv1.EndpointSlice{}, map[string]corev1.Node{}}
	services, err := c.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	for _, o := range services.Items {
		w.Services[o.Namespace+"/"+o.Name] = o
	}
	slices, err := c.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	for _, o := range slices.Items {
		w.Slices[o.Namespace+"/"+o.Name] = o
	}
	nodes, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	check(t, err)
	for _, o := range nodes.Items {
		w.Nodes[o.Name] = o
	}
	return w
}

// same compares worlds; a node's heartbeat may be one later.
func same(a, b world) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(metav1.ObjectMeta{}, "ManagedFields"))
}

// still stops what changes objects, so that worlds can be compared.
func (s *ship) still() {
	s.t.Helper()
	for _, p := range s.Processes() {
		if p.Kind != lab.KindEtcd && p.Kind != lab.KindAPIServer {
			check(s.t, p.Stop(s.t.Context()))
		}
	}
}

// The whole story: what kube-proxy reads is kept; everything is killed, the gate too; the gate comes back from its disk
// alone; a kube-proxy starts and finds its world; others find nothing; the control plane comes back, and kube-proxy goes on
// without a list.
func TestOutage(t *testing.T) {
	s := launch(t, lab.Options{Nodes: 3, Pods: 6})
	dir := t.TempDir()
	proxyAccount, stranger := s.account("proxy"), s.account("stranger")
	before := openFront(t, s.Lab, dir, options{})
	running := startProxy(t, at(proxyAccount, before))
	testkit.Within(t, "kube-proxy starts", 20*time.Second, running.synced)
	node := lab.NodeName(0)
	_, err := gatetest.Clientset(t, at(proxyAccount, before)).CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{ResourceVersion: "0"})
	check(t, err)
	if _, err = gatetest.Clientset(t, at(proxyAccount, before)).CoreV1().Nodes().Get(t.Context(), "nobody", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	_, err = gatetest.Clientset(t, at(proxyAccount, before)).CoreV1().Services("default").Get(t.Context(), "bow", metav1.GetOptions{})
	check(t, err)
	s.still()
	known := worldOf(t, s.admin)
	testkit.Within(t, "the gate keeps what there is, and the grants", 20*time.Second, func() bool {
		status := before.Status()
		ok := status.Grants >= 7
		for _, r := range status.Resources {
			want := map[string]int{"services": len(known.Services), "nodes": len(known.Nodes), "endpointslices.discovery.k8s.io": len(known.Slices)}[r.Resource]
			ok = ok && r.Objects == want && want > 0
		}
		return ok
	})
	testkit.Within(t, "it has seen the last change", 5*time.Second, func() bool { return same(known, running.world()) == "" })
	running.stop()
	s.sink()
	before.stop()
	noSecrets(t, dir)

	after := openFront(t, s.Lab, dir, options{})
	testkit.Within(t, "the outage is noticed", 10*time.Second, after.Gone)

	t.Run("a kube-proxy starts", func(t *testing.T) {
		began := time.Now()
		p := startProxy(t, at(proxyAccount, after))
		testkit.Within(t, "it has its world", 10*time.Second, p.synced)
		t.Logf("synced after %s with %v", time.Since(began).Round(time.Millisecond), p.sent.counts())
		if diff := same(known, p.world()); diff != "" {
			t.Errorf("the world (-before +served):\n%s", diff)
		}
		if got := p.sent.counts(); got["list"] != 3 || got["watchlist"] != 3 {
			t.Errorf("it sent %v, want one WatchList and one LIST a resource", got)
		}
	})
	t.Run("in JSON", func(t *testing.T) {
		c := at(proxyAccount, after)
		c.ContentType = "application/json"
		p := startProxy(t, c)
		testkit.Within(t, "it has its world", 10*time.Second, p.synced)
		if diff := same(known, p.world()); diff != "" {
			t.Errorf("the world (-before +served):\n%s", diff)
		}
	})
	t.Run("metadata only", func(t *testing.T) {
		client, err := metadata.NewForConfig(at(proxyAccount, after))
		check(t, err)
		got, err := client.Resource(corev1.SchemeGroupVersion.WithResource("services")).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		check(t, err)
		if len(got.Items) != len(known.Services) || got.Items[0].UID != known.Services[got.Items[0].Namespace+"/"+got.Items[0].Name].UID {
			t.Errorf("%d items", len(got.Items))
		}
	})
	t.Run("what is asked for matters", func(t *testing.T) {
		var warned []string
		c := at(proxyAccount, after)
		c.WarningHandler = warnings{&warned}
		core := gatetest.Clientset(t, c).CoreV1()
		names := func(namespace string, o metav1.ListOptions) []string {
			t.Helper()
			list, err := core.Services(namespace).List(t.Context(), o)
			check(t, err)
			var all []string
			for _, s := range list.Items {
				all = append(all, s.Namespace+"/"+s.Name)
			}
			return all
		}
		for _, tc := range []struct {
			namespace string
			o         metav1.ListOptions
			want      []string
		}{
			{"kube-system", metav1.ListOptions{ResourceVersion: "0"}, []string{"kube-system/keel"}},
			{"", metav1.ListOptions{ResourceVersion: "0", LabelSelector: "part in (bow,keel)", Limit: 1}, []string{"default/bow", "kube-system/keel"}},
			{"", metav1.ListOptions{ResourceVersion: "0", FieldSelector: "metadata.name=mast"}, []string{"default/mast"}},
			{"default", metav1.ListOptions{ResourceVersion: "0", LabelSelector: "part", FieldSelector: "metadata.name!=mast,metadata.namespace=default"}, []string{"default/bow", "default/stern"}},
			{"", metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, LabelSelector: "part=bow"}, []string{"default/bow"}},
		} {
			if got := names(tc.namespace, tc.o); !slices.Equal(got, tc.want) {
				t.Errorf("%q %+v: %q, want %q", tc.namespace, tc.o, got, tc.want)
			}
		}
		if len(warned) == 0 || !strings.HasPrefix(warned[0], "seakeep: ") || !strings.HasSuffix(warned[0], " old") {
			t.Errorf("warned: %q", warned)
		}
		got, err := core.Nodes().Get(t.Context(), node, metav1.GetOptions{ResourceVersion: "0"})
		check(t, err)
		if want := known.Nodes[node]; got.UID != want.UID {
			t.Errorf("got node %s", got.UID)
		}
		quick, cancel := context.WithTimeout(t.Context(), 3*time.Second) // the client would repeat
		defer cancel()
		for what, ask := range map[string]func(context.Context) error{
			"a node it may not get": func(ctx context.Context) error {
				_, err := core.Nodes().Get(ctx, lab.NodeName(1), metav1.GetOptions{ResourceVersion: "0"})
				return err
			},
			"the most recent": func(ctx context.Context) error {
				_, err := core.Services("").List(ctx, metav1.ListOptions{})
				return err
			},
			"an exact version": func(ctx context.Context) error {
				_, err := core.Services("").List(ctx, metav1.ListOptions{ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact})
				return err
			},
			"a version of the future": func(ctx context.Context) error {
				_, err := core.Services("").List(ctx, metav1.ListOptions{ResourceVersion: "999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
				return err
			},
			"a page": func(ctx context.Context) error {
				_, err := core.Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0", Continue: "x"})
				return err
			},
			"another field": func(ctx context.Context) error {
				_, err := core.Services("").List(ctx, metav1.ListOptions{ResourceVersion: "0", FieldSelector: "spec.type=ClusterIP"})
				return err
			},
			"pods": func(ctx context.Context) error {
				_, err := core.Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
				return err
			},
			"secrets": func(ctx context.Context) error {
				_, err := core.Secrets("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
				return err
			},
		} {
			if err := ask(quick); err == nil || apierrors.IsNotFound(err) {
				t.Errorf("%s: %v, want that there is no answer", what, err)
			}
		}
	})
	t.Run("absent is not gone", func(t *testing.T) {
		response := raw(t, after, proxyAccount.BearerToken, "/api/v1/namespaces/default/services/bow?resourceVersion=0", nil)
		if response.code != http.StatusOK {
			t.Errorf("what is there: %d %s", response.code, response.body)
		}
		// Its reader was granted this very name, and it does not exist.
		s := raw(t, after, proxyAccount.BearerToken, "/api/v1/nodes/nobody?resourceVersion=0", nil)
		if s.code != http.StatusServiceUnavailable || s.header.Get("Retry-After") == "" {
			t.Errorf("what is not there: %d, Retry-After %q: %s", s.code, s.header.Get("Retry-After"), s.body)
		}
	})
	t.Run("others find nothing", func(t *testing.T) {
		target := "/api/v1/services?resourceVersion=0"
		for what, answer := range map[string]response{
			"no credential":    raw(t, after, "", target, nil),
			"an invented one":  raw(t, after, "x.y.z", target, nil),
			"a changed one":    raw(t, after, proxyAccount.BearerToken[:len(proxyAccount.BearerToken)-8]+"AAAAAAAA", target, nil),
			"no grant":         raw(t, after, stranger.BearerToken, target, nil),
			"acting as other":  raw(t, after, proxyAccount.BearerToken, target, http.Header{"Impersonate-User": {"jane"}}),
			"a Table only":     raw(t, after, proxyAccount.BearerToken, target, http.Header{"Accept": {"application/json;as=Table;g=meta.k8s.io;v=v1"}}),
			"unknown question": raw(t, after, proxyAccount.BearerToken, target+"&selector=shardRange(0,1)", nil),
		} {
			if answer.code != http.StatusServiceUnavailable || strings.Contains(answer.body, "mast") {
				t.Errorf("%s: %d %.200s", what, answer.code, answer.body)
			}
		}
		table := raw(t, after, proxyAccount.BearerToken, target, http.Header{"Accept": {"application/json;as=Table;g=meta.k8s.io;v=v1,application/json"}, "Accept-Encoding": {"gzip"}})
		if table.code != http.StatusOK || !strings.HasPrefix(table.body, `{"kind":"ServiceList"`) {
			t.Errorf("a Table or else JSON: %d %.100s", table.code, table.body)
		}
	})
	t.Run("a token that ended", func(t *testing.T) {
		late := openFront(t, s.Lab, copied(t, dir), options{ahead: 2 * time.Hour})
		testkit.Within(t, "the outage is noticed", 10*time.Second, late.Gone)
		if answer := raw(t, late, proxyAccount.BearerToken, "/api/v1/services?resourceVersion=0", nil); answer.code != http.StatusServiceUnavailable {
			t.Errorf("got %d %.100s", answer.code, answer.body)
		}
	})
	t.Run("a grant that is too old", func(t *testing.T) {
		o := options{}
		o.survive.GrantTTL = &metav1.Duration{Duration: time.Millisecond}
		late := openFront(t, s.Lab, copied(t, dir), o)
		testkit.Within(t, "the outage is noticed", 10*time.Second, late.Gone)
		if answer := raw(t, late, proxyAccount.BearerToken, "/api/v1/services?resourceVersion=0", nil); answer.code != http.StatusServiceUnavailable {
			t.Errorf("got %d %.100s", answer.code, answer.body)
		}
	})

	t.Run("the control plane returns", func(t *testing.T) {
		const crowd = 20
		var proxies []*proxyLike
		for range crowd {
			proxies = append(proxies, startProxy(t, at(proxyAccount, after)))
		}
		for _, p := range proxies {
			testkit.Within(t, "all have their world", 20*time.Second, p.synced)
		}
		testkit.Within(t, "their watches are held", 20*time.Second, func() bool { return after.Status().Watches >= 3*crowd })
		since := s.auditLength()
		s.raise()
		testkit.Within(t, "the outage is over", 20*time.Second, func() bool { return !after.Gone() })
		admin := gatetest.Clientset(t, s.RESTConfig(lab.Masters))
		check(t, admin.CoreV1().Services("default").Delete(t.Context(), "stern", metav1.DeleteOptions{}))
		s.service("default", "rudder", map[string]string{"part": "rudder"})
		_, err := admin.CoreV1().Services("default").Patch(t.Context(), "bow", types.MergePatchType, []byte(`{"metadata":{"labels":{"painted":"red"}}}`), metav1.PatchOptions{})
		check(t, err)
		want := worldOf(t, admin)
		for _, p := range proxies {
			testkit.Within(t, "all know what changed", 40*time.Second, func() bool { return same(want, p.world()) == "" })
		}
		// One more change, which only a watch of the API server can tell.
		s.service("default", "pennant", map[string]string{"part": "pennant"})
		want = worldOf(t, admin)
		for _, p := range proxies {
			testkit.Within(t, "all watch the API server", 40*time.Second, func() bool { return same(want, p.world()) == "" })
		}
		var sum map[string]int
		testkit.Within(t, "the audit log is written", 10*time.Second, func() bool {
			sum = map[string]int{}
			for _, resource := range []string{"services", "nodes", "endpointslices"} {
				for verb, n := range s.asked(since, "system:serviceaccount:default:proxy", resource) {
					sum[verb] += n
				}
			}
			return sum["watch"] >= 3*crowd
		})
		t.Logf("%d clients of 3 resources after the return: %v", crowd, sum)
		if sum["list"] != 0 {
			t.Errorf("%d LISTs reached the API server after its return, want none", sum["list"])
		}
	})
	noSecrets(t, dir)
}

// A gate that finds another cluster's files drops them, and their grants, as soon as an API server says who it is.
func TestAnotherClustersFilesAreDropped(t *testing.T) {
	s := launch(t, lab.Options{})
	dir := t.TempDir()
	survive.SaveForeign(t, dir, "11111111-2222-3333-4444-555555555555", "jane")
	n := openFront(t, s.Lab, dir, options{})
	services, err := s.admin.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	testkit.Within(t, "this cluster's services took the place of the other's", 20*time.Second, func() bool {
		status := n.Status()
		return status.Resources[2].Resource == "services" && status.Resources[2].Objects == len(services.Items) && status.Grants == 0
	})
	if !strings.Contains(n.log.String(), "another cluster") {
		t.Error("nobody is told")
	}
	n.stop()
	again := openFront(t, s.Lab, dir, options{})
	if status := again.Status(); status.Resources[2].Objects != len(services.Items) || status.Grants != 0 {
		t.Errorf("on disk: %+v", status)
	}
}

type warnings struct{ all *[]string }

func (w warnings) HandleWarningHeader(_ int, _ string, text string) { *w.all = append(*w.all, text) }

type response struct {
	code   int
	header http.Header
	body   string
}

// raw sends a request no client library would, once.
func raw(t testing.TB, n *front, token, target string, header http.Header) response {
	t.Helper()
	client := n.client(t)
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+target, nil)
	check(t, err)
	for key, values := range header {
		r.Header[key] = values
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	got, err := client.Do(r)
	check(t, err)
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	check(t, err)
	return response{got.StatusCode, got.Header, string(body)}
}
