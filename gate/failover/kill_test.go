package failover_test

import (
	"context"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestKilledAndBack kills an API server, kill -9, under writers and watchers, and lets it come back. A write may fail
// that was under way there, and none after that; no write happens twice; no watcher misses one; and the server that came
// back gets its part of the watches again, a few at a time, without any watcher reading everything anew.
func TestKilledAndBack(t *testing.T) {
	const watchers = 60
	w := newWorld(t)
	n := gatetest.Serve(t, w.Lab, w.configure(t, "balance: {watchesPerSecond: 20}\n", w.upstreams()...))
	defer w.leave(t, n)
	client := n.HTTP(true, n.Certificate(lab.Admin))
	makeNamespace(t, client, n.URL)

	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	var stores []cache.Store
	for range watchers {
		factory := informers.NewSharedInformerFactoryWithOptions(n.Client(lab.Admin), 0, informers.WithNamespace(namespace))
		informer := factory.Core().V1().ConfigMaps().Informer()
		stores = append(stores, informer.GetStore())
		watching.Go(func() { informer.RunWithContext(ctx) })
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			t.Fatal("a watcher does not sync")
		}
	}
	at := func(server string) float64 { return metric(t, n, "seakeep_gate_upstream_streams", server) }
	if a, b, c := at("server-0"), at("server-1"), at("server-2"); max(a, b, c)-min(a, b, c) > 2 {
		t.Errorf("%v, %v and %v watches are open, want them alike", a, b, c)
	}

	p, ok := w.Process("kube-apiserver-2")
	if !ok {
		t.Fatal("no third API server")
	}
	killed := time.AfterFunc(cutAfter, p.Kill)
	defer killed.Stop()
	writer := &storm{t: t, client: client, url: n.URL}
	all := writer.run(writes, window+cutAfter)
	v := judge(t, all)
	if v.failed > 5 || v.failed > 0 && v.last > cutAfter+time.Second {
		t.Errorf("%d writes failed, the last sent %s after the kill; want only those under way", v.failed, v.last-cutAfter)
	}
	w.once(t, all)

	check(t, p.Start(t.Context()))
	allIn(t, n, writer)
	within(t, 60*time.Second, "the server that came back has its part of the watches", func() bool { return at("server-2") >= watchers/3-8 })
	if moved := metric(t, n, "seakeep_gate_upstream_moved_watches_total"); moved < 1 || moved > watchers {
		t.Errorf("%v watches were moved", moved)
	}

	reader := n.Client(lab.Admin)
	within(t, 30*time.Second, "every watcher has every object", func() bool {
		list, err := reader.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
		check(t, err)
		for _, store := range stores {
			if len(store.ListKeys()) != len(list.Items) {
				return false
			}
		}
		return true
	})
}
