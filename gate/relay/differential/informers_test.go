package differential

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// replicas are the informers of each sort through the gate: that they share is the point.
const replicas = 8

// TestInformersOverRestarts runs client-go informers on both ends, those that begin with a WatchList and those that LIST,
// while ConfigMaps are written without pause, the gate is restarted and the API server is killed. When the writing is
// over, every store is what the API server has; and no informer was ever shown an object going back in time.
func TestInformersOverRestarts(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1, Dir: t.TempDir()}) // of its own: it is broken
	port, err := l.NextPort()
	check(t, err)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{Address: address, More: everything})
	first := gatetest.Serve(t, l, file)
	lines := &lines{} // of clients that outlive a gate
	masters := gatetest.Clientset(t, lines.of(first.Direct(lab.Masters)))
	namespace(t, masters, "informed")

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	finish := sync.OnceFunc(func() { cancel(); running.Wait(); lines.cut() })
	t.Cleanup(finish)
	var informers []*informer
	for i := range replicas {
		for _, watchList := range []bool{true, false} {
			informers = append(informers, follow(ctx, t, &running, fmt.Sprintf("gate %d, WatchList %t", i, watchList), gatetest.Clientset(t, lines.of(first.Config(lab.Admin))), watchList))
		}
	}
	for _, watchList := range []bool{true, false} {
		informers = append(informers, follow(ctx, t, &running, fmt.Sprintf("direct, WatchList %t", watchList), masters, watchList))
	}
	for _, i := range informers {
		eventually(t, time.Minute, i.synced)
	}

	w := scribble(ctx, &running, masters, "informed")
	w.await(t, 200)
	first.Stop()
	w.await(t, 50) // written while there is no gate
	second := gatetest.Serve(t, l, file)
	w.await(t, 200)
	server, _ := l.Process(lab.KindAPIServer)
	server.Kill()
	w.await(t, 200) // it is started again by the lab
	w.stop()

	for _, i := range informers {
		eventually(t, 2*time.Minute, func() error { return i.equals(ctx, masters) })
	}
	for _, i := range informers {
		if text := i.wrong.Load(); text != nil {
			t.Errorf("%s: %s", i.name, *text)
		}
	}
	answers, reads := counter(t, first, answersTotal), counter(t, first, readsTotal)
	events, delivered := counter(t, second, eventsTotal), counter(t, second, deliveredTotal)
	t.Logf("%d writes; %v answers of %v reads through the first gate, %v events became %v through the second", w.written.Load(), answers, reads, events, delivered)
	if answers <= reads || delivered < 2*events {
		t.Error("little was shared")
	}
	finish()
}

// informer is one of client-go's.
type informer struct {
	name    string
	store   cache.SharedIndexInformer
	wrong   atomic.Pointer[string]
	mu      sync.Mutex
	present map[string]uint64 // by key, the version it was shown in last
}

func follow(ctx context.Context, t *testing.T, running *sync.WaitGroup, name string, kube kubernetes.Interface, watchList bool) *informer {
	t.Helper()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return kube.CoreV1().ConfigMaps("informed").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return kube.CoreV1().ConfigMaps("informed").Watch(ctx, o)
		},
	}
	var source cache.ListerWatcher = unsupporting{lw}
	if watchList {
		source = cache.ToListWatcherWithWatchListSemantics(lw, kube)
	}
	i := &informer{name: name, store: cache.NewSharedIndexInformer(source, &corev1.ConfigMap{}, 0, cache.Indexers{}), present: map[string]uint64{}}
	_, err := i.store.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { i.shown(t, object, false) },
		UpdateFunc: func(_, object any) { i.shown(t, object, true) },
		DeleteFunc: func(object any) { i.gone(object) },
	})
	check(t, err)
	running.Go(func() { i.store.RunWithContext(ctx) })
	return i
}

// unsupporting makes an informer LIST first, as those before client-go 0.35 do.
type unsupporting struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what client-go asks.
func (unsupporting) IsWatchListSemanticsUnSupported() bool { return true }

func (i *informer) shown(t *testing.T, object any, update bool) {
	meta, ok := object.(metav1.Object)
	if !ok {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	key, at := meta.GetNamespace()+"/"+meta.GetName(), version(t, meta.GetResourceVersion())
	before, there := i.present[key]
	if there != update || at < before {
		text := fmt.Sprintf("%s was shown as of version %d after %d (there: %t, as an update: %t)", key, at, before, there, update)
		i.wrong.CompareAndSwap(nil, &text)
	}
	i.present[key] = at
}

func (i *informer) gone(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	meta, ok := object.(metav1.Object)
	if !ok {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.present, meta.GetNamespace()+"/"+meta.GetName())
}

func (i *informer) synced() error {
	if !i.store.HasSynced() {
		return fmt.Errorf("%s is not in sync", i.name)
	}
	return nil
}

// equals says how the store differs from what the API server has.
func (i *informer) equals(ctx context.Context, kube kubernetes.Interface) error {
	list, err := kube.CoreV1().ConfigMaps("informed").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	want, got := map[string]string{}, map[string]string{}
	for n := range list.Items {
		want[list.Items[n].Name] = list.Items[n].ResourceVersion
	}
	for _, object := range i.store.GetStore().List() {
		if meta, ok := object.(metav1.Object); ok {
			got[meta.GetName()] = meta.GetResourceVersion()
		}
	}
	if !maps.Equal(want, got) {
		return fmt.Errorf("%s: the store has %d objects and the API server %d, or other versions of them", i.name, len(got), len(want))
	}
	return nil
}

// scribbler writes ConfigMaps at random, directly, without pause.
type scribbler struct {
	cancel  context.CancelFunc
	done    chan struct{}
	written atomic.Int64
}

func scribble(ctx context.Context, running *sync.WaitGroup, kube kubernetes.Interface, ns string) *scribbler {
	ctx, cancel := context.WithCancel(ctx)
	w := &scribbler{cancel: cancel, done: make(chan struct{})}
	running.Go(func() {
		defer close(w.done)
		random := rand.New(rand.NewPCG(1, 2))
		maps := kube.CoreV1().ConfigMaps(ns)
		pause := time.NewTicker(4 * time.Millisecond)
		defer pause.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-pause.C
			name := fmt.Sprintf("object-%d", random.IntN(60))
			labels := map[string]string{"shade": []string{"dark", "light"}[random.IntN(2)]}
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"n": strconv.Itoa(n)}}
			var err error
			switch random.IntN(4) {
			case 0:
				err = maps.Delete(ctx, name, metav1.DeleteOptions{})
			default:
				if _, err = maps.Update(ctx, object, metav1.UpdateOptions{}); err != nil {
					_, err = maps.Create(ctx, object, metav1.CreateOptions{})
				}
			}
			if err == nil { // while the API server is away, none is
				w.written.Add(1)
			}
		}
	})
	return w
}

// await waits for so many more writes.
func (w *scribbler) await(t *testing.T, more int64) {
	t.Helper()
	want := w.written.Load() + more
	eventually(t, time.Minute, func() error {
		if got := w.written.Load(); got < want {
			return fmt.Errorf("%d of %d writes", got, want)
		}
		return nil
	})
}

func (w *scribbler) stop() {
	w.cancel()
	<-w.done
}
