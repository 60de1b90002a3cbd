package watch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func cluster(t testing.TB) *lab.Lab { return lab.Start(t, lab.Options{}) }

// churn writes to configmaps of a namespace until stopped, and returns how much it wrote.
type churn struct {
	t         testing.TB
	client    *kubernetes.Clientset
	namespace string
	r         *rand.Rand
	live      []string
	next      int
	writes    int
}

func newChurn(t testing.TB, client *kubernetes.Clientset, namespace string, seed uint64) *churn {
	t.Helper()
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	check(t, err)
	return &churn{t: t, client: client, namespace: namespace, r: rand.New(rand.NewPCG(seed, 1))}
}

// step makes one write.
func (c *churn) step(ctx context.Context) error {
	maps := c.client.CoreV1().ConfigMaps(c.namespace)
	c.writes++
	n := c.r.IntN(10)
	if len(c.live) < 3 || n < 3 {
		name := fmt.Sprintf("c-%d", c.next)
		c.next++
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": []string{"a", "b", "c"}[c.r.IntN(3)]}},
			Data:       map[string]string{"text": strings.Repeat("x", c.r.IntN(2000))},
		}, metav1.CreateOptions{})
		if err == nil {
			c.live = append(c.live, name)
		}
		return err
	}
	i := c.r.IntN(len(c.live))
	if n < 5 {
		err := maps.Delete(ctx, c.live[i], metav1.DeleteOptions{})
		c.live[i] = c.live[len(c.live)-1]
		c.live = c.live[:len(c.live)-1]
		return err
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{"app":%q}},"data":{"n":"%d"}}`, []string{"a", "b", "c"}[c.r.IntN(3)], c.writes)
	_, err := maps.Patch(ctx, c.live[i], types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// steps makes some writes that must succeed.
func (c *churn) steps(n int) {
	c.t.Helper()
	for range n {
		check(c.t, c.step(c.t.Context()))
	}
}

// informer is a client-go reflector with its store.
type informer struct {
	informer cache.SharedIndexInformer
	lists    *atomic.Int64
}

// lister lists, and then watches from the version of the LIST, as clients without WatchList do.
type lister struct {
	client    *kubernetes.Clientset
	namespace string
	tweak     func(*metav1.ListOptions)
	lists     *atomic.Int64
}

func (lister) IsWatchListSemanticsUnSupported() bool { return true }

func (l lister) List(o metav1.ListOptions) (runtime.Object, error) {
	l.tweak(&o)
	l.lists.Add(1)
	return l.client.CoreV1().ConfigMaps(l.namespace).List(context.Background(), o)
}

func (l lister) Watch(o metav1.ListOptions) (apiwatch.Interface, error) {
	l.tweak(&o)
	return l.client.CoreV1().ConfigMaps(l.namespace).Watch(context.Background(), o)
}

func startInformer(t testing.TB, config *rest.Config, namespace string, tweak func(*metav1.ListOptions)) *informer {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	i := &informer{lists: &atomic.Int64{}}
	i.informer = cache.NewSharedIndexInformer(lister{client, namespace, tweak, i.lists}, &corev1.ConfigMap{}, 0, cache.Indexers{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { i.informer.Run(ctx.Done()) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return i
}

func (i *informer) state() map[string]*corev1.ConfigMap {
	all := map[string]*corev1.ConfigMap{}
	for _, o := range i.informer.GetStore().List() {
		c := o.(*corev1.ConfigMap)
		all[c.Namespace+"/"+c.Name] = c
	}
	return all
}

// world is what the API server has.
func world(t testing.TB, client *kubernetes.Clientset, namespace string, selector string) map[string]*corev1.ConfigMap {
	t.Helper()
	list, err := client.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	check(t, err)
	all := map[string]*corev1.ConfigMap{}
	for i := range list.Items {
		all[list.Items[i].Namespace+"/"+list.Items[i].Name] = &list.Items[i]
	}
	return all
}

func TestInformersThroughTheHub(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			l := cluster(t)
			// A small ring and short watches, so that subscribers fall behind, catch up, go over and come back all the time.
			g := newRig(t, l, watch.Options{Events: 40, Linger: time.Second}, http2)
			namespace := "informers-" + strings.ToLower(strings.NewReplacer("/", "", ".", "").Replace(name))
			c := newChurn(t, g.direct, namespace, 1)
			c.steps(30)
			var all []*informer
			short := int64(3)
			for i := range 12 {
				config := g.config()
				if i%2 == 0 {
					config.ContentType = "application/vnd.kubernetes.protobuf"
				}
				all = append(all, startInformer(t, config, namespace, func(o *metav1.ListOptions) {
					if o.TimeoutSeconds != nil && i%3 == 0 {
						o.TimeoutSeconds = &short
					}
				}))
				c.steps(20)
			}
			c.steps(400)
			compare(t, g, namespace, all)
			g.upstream.set(errDown)
			c.steps(60)
			g.upstream.set(nil)
			c.steps(20)
			compare(t, g, namespace, all)
			if g.followed.Load() == 0 || g.counter("seakeep_gate_relay_watch_events_delivered_total") < 12*400 {
				t.Errorf("%d watches were followed, %v events delivered: the informers did not go through the hub", g.followed.Load(), g.counter("seakeep_gate_relay_watch_events_delivered_total"))
			}
			t.Logf("%d watches followed, %d forwarded, %d asked of the API server, %v caught up, %v moved over, %v dropped", g.followed.Load(), g.forwarded.Load(), g.upstream.opened.Load(),
				g.counter("seakeep_gate_relay_watch_catch_ups_total"), g.counter("seakeep_gate_relay_watch_moved_total"), g.counter("seakeep_gate_relay_watch_dropped_total"))
		})
	}
}

// compare waits until every informer holds what the API server has.
func compare(t *testing.T, g *rig, namespace string, all []*informer) {
	t.Helper()
	want := world(t, g.direct, namespace, "")
	for i, informer := range all {
		var diff string
		deadline := time.Now().Add(30 * time.Second)
		testkit.Within(t, fmt.Sprintf("informer %d has what the API server has", i), time.Minute, func() bool {
			diff = cmp.Diff(want, informer.state())
			if time.Now().After(deadline) {
				t.Fatalf("informer %d (-API server +informer):\n%s", i, diff)
			}
			return diff == ""
		})
	}
}
