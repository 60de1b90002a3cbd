package differential

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestEveryWatchSeesEveryEventOnce opens watches through the gate while ConfigMaps are written, from whatever version a
// client might have: the newest, one of a moment ago, one of long ago. Each gets, from its version on, byte for byte the
// events that a watch at the API server gets: none lost, none twice, none out of order.
func TestEveryWatchSeesEveryEventOnce(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	lane := gatetest.Open(t, l, gatetest.Options{More: everything})
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	namespace(t, masters, "watched")
	first := write(t, masters, "first", nil)

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, selector := range []string{"", "&labelSelector=shade%3Ddark", "&fieldSelector=metadata.name%3Dobject-3"} {
		t.Run("selector "+selector, func(t *testing.T) {
			path := "/api/v1/namespaces/watched/configmaps?watch=true&allowWatchBookmarks=false" + selector + "&resourceVersion="
			certificate := lane.Certificate(lab.Admin)
			direct := record(ctx, t, &running, lane.HTTP(true, certificate), l.APIServerURL(0)+path+first, "direct")
			w := scribble(ctx, &running, masters, "watched")
			defer w.stop()
			var watches []*recorder
			for n := range 24 {
				w.await(t, 15)
				from := first
				if known := direct.versions(); len(known) > 0 && n%3 != 0 {
					from = known[max(0, len(known)-1-random.IntN(len(known)))]
					if n%3 == 1 {
						from = known[len(known)-1]
					}
				}
				watches = append(watches, record(ctx, t, &running, lane.HTTP(n%2 == 0, certificate), lane.URL+path+from, from))
			}
			w.await(t, 50)
			w.stop()
			// A last event that all of them see says when they have seen all.
			last := write(t, masters, "object-3", map[string]string{"shade": "dark"})
			for _, r := range append([]*recorder{direct}, watches...) {
				eventually(t, 30*time.Second, func() error { return r.reached(last) })
			}
			for _, r := range watches {
				want := direct.since(t, r.from)
				if got := r.all(); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("a watch from version %s (the log begins with %s) has %d events, the API server's own has %d:\n%s", r.from, first, len(got), len(want), firstDifference(got, want))
				}
			}
			t.Logf("%d events, %d watches", len(direct.all()), len(watches))
		})
	}
}

// write puts an object in the place of one there may be, and returns its version.
func write(t *testing.T, kube kubernetes.Interface, name string, labels map[string]string) string {
	t.Helper()
	maps := kube.CoreV1().ConfigMaps("watched")
	if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		check(t, err)
	}
	made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	check(t, err)
	return made.ResourceVersion
}

// recorder is an open watch and what it brought, line by line.
type recorder struct {
	from string

	mu     sync.Mutex
	events [][]byte
	marks  []string // their versions
	ended  error
}

func record(ctx context.Context, t *testing.T, running *sync.WaitGroup, client *http.Client, url, from string) *recorder {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	check(t, err)
	response, err := client.Do(request)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("a watch was answered %s", response.Status)
	}
	r := &recorder{from: from}
	running.Go(func() {
		defer func() { _ = response.Body.Close() }()
		lines := bufio.NewReader(response.Body)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				r.end(err)
				return
			}
			r.add(line)
		}
	})
	return r
}

func (r *recorder) add(line []byte) {
	var event struct {
		Object struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		} `json:"object"`
	}
	err := json.Unmarshal(line, &event)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.ended = err
	}
	r.events = append(r.events, line)
	r.marks = append(r.marks, event.Object.Metadata.ResourceVersion)
}

func (r *recorder) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = errors.Join(r.ended, err)
}

func (r *recorder) all() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *recorder) versions() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.marks)
}

// since are the events after a version.
func (r *recorder) since(t *testing.T, from string) [][]byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	after := version(t, from)
	for i, mark := range r.marks {
		if version(t, mark) > after {
			return slices.Clone(r.events[i:])
		}
	}
	return nil
}

func (r *recorder) reached(last string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return fmt.Errorf("the watch from %s ended: %w", r.from, r.ended)
	}
	if len(r.marks) == 0 || r.marks[len(r.marks)-1] != last {
		return fmt.Errorf("the watch from %s has %d events and not that of version %s", r.from, len(r.marks), last)
	}
	return nil
}

// has says whether the watch brought the event of a version.
func (r *recorder) has(version string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.marks, version) {
		return nil
	}
	return fmt.Errorf("the watch from %s has %d events, of versions %v, and not that of %s: %w", r.from, len(r.marks), r.marks, version, errors.Join(r.ended, errNotYet))
}

var errNotYet = errors.New("not yet")

func firstDifference(got, want [][]byte) string {
	for i := range max(len(got), len(want)) {
		var g, w []byte
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if !bytes.Equal(g, w) {
			return fmt.Sprintf("event %d\n-direct %s+gate   %s", i, w, g)
		}
	}
	return ""
}
