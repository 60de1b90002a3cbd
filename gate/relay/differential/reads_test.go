package differential

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

const (
	clients = 50
	// strangers are those of them that have no right in the closed namespace, nor to all of them.
	strangers = 5
	rounds    = 40
	closed    = "closed"
)

// TestRandomReadsAndWrites lets 50 clients write directly and through the gate and read through the gate what they and
// others wrote. Of every answer it holds that the API server could have given it between the request and the answer:
//
//   - it is exactly the state that the API server itself reports for the answer's version;
//   - most-recent reads are no older than any write that had ended anywhere when they began, and show the client its own
//     writes, deletions included;
//   - reads that leave the age to the server are no older than what anybody had got for the same before, and than the
//     version they name;
//   - whoever may not read gets 403.
//
// A failing seed is replayed by putting it in.
func TestRandomReadsAndWrites(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	// Of its own: every answer is kept until it is compared, those from the whole cluster too, and other tests leave objects of
	// a megabyte behind, and thousands of small ones.
	l := lab.Start(t, lab.Options{Nodes: 1, Dir: t.TempDir()})
	lane := gatetest.Open(t, l, gatetest.Options{More: everything})
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	w := &world{t: t, direct: masters, served: map[string]*highest{}}
	namespaces := []string{"one", "two", closed}
	for _, ns := range namespaces {
		namespace(t, masters, ns)
	}
	for i := range clients {
		if i < strangers {
			allow(t, masters, userOf(i).String(), namespaces[:2]...)
		} else {
			allow(t, masters, userOf(i).String())
		}
	}
	awaitRights(t, masters, userOf(clients-1).String())
	var running sync.WaitGroup
	for i := range clients {
		name, open := userOf(i), namespaces
		if i < strangers {
			open = namespaces[:2]
		}
		c := &client{
			world: w, id: i, random: rand.New(rand.NewPCG(seed, uint64(i))), namespaces: open, own: map[string]string{},
			direct: gatetest.Clientset(t, encoded(lane.Direct(name), i%2 == 0)), gate: gatetest.Clientset(t, encoded(lane.Config(name), i%2 == 0)),
			encoding: map[bool]string{true: "protobuf", false: "json"}[i%2 == 0],
		}
		running.Go(func() {
			for range rounds {
				if err := c.step(t.Context()); err != nil {
					t.Errorf("client %d: %v", c.id, err)
					return
				}
			}
		})
	}
	running.Wait()
	w.compare(t.Context())
	answers, reads := counter(t, lane, answersTotal), counter(t, lane, readsTotal)
	t.Logf("%d answers compared; %v shared answers of %v reads of the API server", len(w.answers), answers, reads)
	if answers < clients*rounds/4 || reads >= answers {
		t.Errorf("little was shared: %v answers of %v reads", answers, reads)
	}
	if counter(t, lane, forwardedTotal, "denied") == 0 {
		t.Error("nobody was ever denied: the strangers did not try")
	}
}

// world is what the test knows of the state.
type world struct {
	t      testing.TB
	direct kubernetes.Interface
	// written is the version of the newest write that has ended.
	written highest

	mu      sync.Mutex
	served  map[string]*highest // by key
	answers []answer
}

// answer is one to be compared with what the API server says of its version.
type answer struct {
	by        string
	namespace string
	options   metav1.ListOptions // selectors only
	version   string
	printed   string
}

func (w *world) servedOf(key string) *highest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.served[key] == nil {
		w.served[key] = &highest{}
	}
	return w.served[key]
}

// client is one of the fifty.
type client struct {
	*world
	id           int
	random       *rand.Rand
	namespaces   []string
	direct, gate kubernetes.Interface
	encoding     string
	own          map[string]string // what this client wrote, by namespace/name, and nobody else writes
	last         uint64            // the newest version this client has seen
	serial       int
}

func (c *client) step(ctx context.Context) error {
	if c.random.IntN(3) == 0 {
		return c.write(ctx)
	}
	if c.id < strangers && c.random.IntN(3) == 0 {
		return c.trespass(ctx)
	}
	return c.read(ctx)
}

// write creates, changes or deletes one of the client's objects, directly or through the gate.
func (c *client) write(ctx context.Context) error {
	kube := c.gate
	if c.random.IntN(2) == 0 {
		kube = c.direct
	}
	names := slices.Sorted(maps.Keys(c.own))
	if len(names) < 3 || c.random.IntN(3) == 0 {
		ns := c.namespaces[c.random.IntN(len(c.namespaces))]
		c.serial++
		name := fmt.Sprintf("c%d-%d", c.id, c.serial)
		made, err := kube.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"shade": []string{"dark", "light"}[c.random.IntN(2)]}},
			Data:       map[string]string{"value": name},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("creating %s: %w", name, err)
		}
		c.own[ns+"/"+name] = made.Data["value"]
		return c.wrote(made.ResourceVersion)
	}
	key := names[c.random.IntN(len(names))]
	ns, name, _ := strings.Cut(key, "/")
	if c.random.IntN(2) == 0 {
		if err := kube.CoreV1().ConfigMaps(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("deleting %s: %w", key, err)
		}
		delete(c.own, key)
		return nil
	}
	c.serial++
	object, err := c.direct.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("getting %s: %w", key, err)
	}
	object.Data["value"] = fmt.Sprint(c.serial)
	if object, err = kube.CoreV1().ConfigMaps(ns).Update(ctx, object, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("changing %s: %w", key, err)
	}
	c.own[key] = object.Data["value"]
	return c.wrote(object.ResourceVersion)
}

func (c *client) wrote(at string) error {
	c.written.raise(version(c.t, at))
	return nil
}

// trespass asks for what the client may not see.
func (c *client) trespass(ctx context.Context) error {
	ns := []string{closed, ""}[c.random.IntN(2)]
	list, err := c.gate.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{ResourceVersion: []string{"", "0"}[c.random.IntN(2)]})
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("a LIST of namespace %q that is not allowed: want 403, got %d objects and %v", ns, len(list.Items), err)
	}
	return nil
}

// read reads through the gate in one of the ways clients do.
func (c *client) read(ctx context.Context) error {
	ns := append(slices.Clone(c.namespaces), "")[c.random.IntN(len(c.namespaces)+1)]
	if ns == "" && c.id < strangers {
		ns = "one"
	}
	var selectors metav1.ListOptions
	switch c.random.IntN(4) {
	case 0:
		selectors.LabelSelector = "shade=" + []string{"dark", "light"}[c.random.IntN(2)]
	case 1:
		selectors.FieldSelector = fmt.Sprintf("metadata.name=c%d-%d", c.random.IntN(clients), 1+c.random.IntN(5))
	}
	key := strings.Join([]string{ns, selectors.LabelSelector, selectors.FieldSelector, c.encoding}, " ")
	written, served := c.written.get(), c.servedOf(key)
	floor := served.get()
	options, how := selectors, "most recent"
	var got *corev1.ConfigMapList
	var err error
	switch c.random.IntN(6) {
	case 0:
		how, options.ResourceVersion = "from the cache", "0"
		got, err = c.gate.CoreV1().ConfigMaps(ns).List(ctx, options)
	case 1:
		how, options.ResourceVersion, options.ResourceVersionMatch = "not older", fmt.Sprint(max(1, c.last)), metav1.ResourceVersionMatchNotOlderThan
		floor = max(floor, c.last)
		got, err = c.gate.CoreV1().ConfigMaps(ns).List(ctx, options)
	case 2:
		how = "paged"
		got, err = c.paged(ctx, ns, options)
	case 3:
		how = "WatchList"
		got, err = c.watchList(ctx, ns, options)
	default:
		got, err = c.gate.CoreV1().ConfigMaps(ns).List(ctx, options)
	}
	if err != nil {
		return fmt.Errorf("reading %s (%s): %w", key, how, err)
	}
	by := fmt.Sprintf("client %d, %s, %s", c.id, how, key)
	at := version(c.t, got.ResourceVersion)
	if how == "most recent" || how == "paged" || how == "WatchList" {
		floor = written
		if err := c.owned(ns, &selectors, got); err != nil {
			return fmt.Errorf("%s, version %d: %w", by, at, err)
		}
	}
	if at < floor {
		return fmt.Errorf("%s: the answer is of version %d, and version %d was there before it was asked for", by, at, floor)
	}
	if how != "WatchList" && how != "paged" { // other keys
		served.raise(at)
	}
	c.last = max(c.last, at)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, answer{by, ns, selectors, got.ResourceVersion, printed(c.t, got.Items)})
	return nil
}

// owned holds that an answer shows exactly the client's own objects.
func (c *client) owned(ns string, selectors *metav1.ListOptions, got *corev1.ConfigMapList) error {
	if selectors.FieldSelector != "" || selectors.LabelSelector != "" {
		return nil // which of them are selected is what the comparison tells
	}
	prefix := fmt.Sprintf("c%d-", c.id)
	seen := map[string]string{}
	for i := range got.Items {
		if item := &got.Items[i]; strings.HasPrefix(item.Name, prefix) {
			seen[item.Namespace+"/"+item.Name] = item.Data["value"]
		}
	}
	want := map[string]string{}
	for key, value := range c.own {
		if ns == "" || strings.HasPrefix(key, ns+"/") {
			want[key] = value
		}
	}
	if !maps.Equal(seen, want) {
		return fmt.Errorf("the client wrote %v and reads %v", want, seen)
	}
	return nil
}

// paged reads page after page; all are of one version.
func (c *client) paged(ctx context.Context, ns string, options metav1.ListOptions) (*corev1.ConfigMapList, error) {
	options.Limit = 7
	whole := &corev1.ConfigMapList{}
	for {
		page, err := c.gate.CoreV1().ConfigMaps(ns).List(ctx, options)
		if err != nil {
			return nil, err
		}
		if whole.ResourceVersion != "" && page.ResourceVersion != whole.ResourceVersion {
			return nil, fmt.Errorf("a page of version %s follows one of %s", page.ResourceVersion, whole.ResourceVersion)
		}
		whole.ResourceVersion = page.ResourceVersion
		whole.Items = append(whole.Items, page.Items...)
		if page.Continue == "" {
			return whole, nil
		}
		options.Continue = page.Continue
	}
}

// errEndedEarly is what the API server does to a watch that does not keep up with the writes, in its initial events too.
var errEndedEarly = errors.New("a WatchList ended before its initial events did")

// watchList tries again as reflectors do.
func (c *client) watchList(ctx context.Context, ns string, options metav1.ListOptions) (*corev1.ConfigMapList, error) {
	for range 20 {
		if list, err := initialEvents(ctx, c.t, c.gate, ns, options); !errors.Is(err, errEndedEarly) {
			return list, err
		}
	}
	return nil, errEndedEarly
}

// initialEvents is the state that a WatchList's initial events come to.
func initialEvents(ctx context.Context, t testing.TB, kube kubernetes.Interface, ns string, options metav1.ListOptions) (*corev1.ConfigMapList, error) {
	options.SendInitialEvents, options.AllowWatchBookmarks = new(true), true
	options.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	w, err := kube.CoreV1().ConfigMaps(ns).Watch(ctx, options)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	state := map[string]corev1.ConfigMap{}
	for event := range w.ResultChan() {
		object, ok := event.Object.(*corev1.ConfigMap)
		if !ok {
			return nil, fmt.Errorf("a WatchList brought %s %v", event.Type, event.Object)
		}
		switch event.Type {
		case watch.Added, watch.Modified:
			state[object.Namespace+"/"+object.Name] = *object
		case watch.Deleted:
			delete(state, object.Namespace+"/"+object.Name)
		case watch.Bookmark:
			if object.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
				continue
			}
			list := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: object.ResourceVersion}}
			for _, key := range slices.SortedFunc(maps.Keys(state), byKey) {
				list.Items = append(list.Items, state[key])
			}
			return list, nil
		}
	}
	return nil, errEndedEarly
}

// byKey orders as etcd does: the separator is lower than what names have, and so is "-"; namespaces come first.
func byKey(a, b string) int { return strings.Compare("/"+a, "/"+b) }

// compare asks the API server, directly, for each version that an answer had.
func (w *world) compare(ctx context.Context) {
	type question struct {
		namespace, labels, fields, version string
	}
	said := map[question]string{}
	for _, a := range w.answers {
		q := question{a.namespace, a.options.LabelSelector, a.options.FieldSelector, a.version}
		want, ok := said[q]
		if !ok {
			options := a.options
			options.ResourceVersion, options.ResourceVersionMatch = a.version, metav1.ResourceVersionMatchExact
			list, err := w.direct.CoreV1().ConfigMaps(a.namespace).List(ctx, options)
			if err != nil {
				w.t.Fatalf("%s: asking the API server for version %s: %v", a.by, a.version, err)
			}
			want = printed(w.t, list.Items)
			said[q] = want
		}
		if a.printed != want {
			w.t.Errorf("%s: the answer of version %s is\n%sand the API server says of that version\n%s", a.by, a.version, a.printed, want)
		}
	}
	w.t.Logf("%d different states were asked for", len(said))
}
