package watch_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/relay/frame"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

const gadgets = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"gadgets.watch.example.com"},
"spec":{"group":"watch.example.com","scope":"Namespaced","names":{"plural":"gadgets","singular":"gadget","kind":"Gadget","listKind":"GadgetList"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// told is an event as a client got it.
type told struct {
	Type    string
	Version uint64
	Frame   string
}

// recorded reads a watch to its end.
type recorded struct {
	name   string
	events []told
	err    error
}

// record opens a watch at the base URL and reads it in the background, bookmarks left out: they come when they come.
func record(t *testing.T, running *sync.WaitGroup, client *http.Client, base, path, accept string, query url.Values) *recorded {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path+"?"+query.Encode(), nil)
	check(t, err)
	r.Header.Set("Accept", accept)
	response, err := client.Do(r)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", r.URL, response.Status)
	}
	got := &recorded{name: path + " " + query.Encode() + " " + accept}
	running.Go(func() {
		defer response.Body.Close()
		s, err := frame.NewScanner(response.Header.Get("Content-Type"))
		if err != nil {
			got.err = err
			return
		}
		buffer := make([]byte, 4096)
		for {
			n, readErr := response.Body.Read(buffer)
			for f, err := range s.Frames(buffer[:n]) {
				if err != nil {
					got.err = err
					return
				}
				if f.Type != frame.Bookmark {
					got.events = append(got.events, told{f.Type.String(), f.Version, string(f.Bytes)})
				}
			}
			if readErr == io.EOF {
				return
			}
			if readErr != nil {
				got.err = readErr
				return
			}
		}
	})
	return got
}

func httpClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	transport, err := rest.TransportFor(config)
	check(t, err)
	return &http.Client{Transport: transport}
}

// A watch filtered at the gate is the API server's own, event for event and byte for byte.
func TestFilteredIsTheSame(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 3})
	g := newRig(t, l, watch.Options{}, true)
	g.filter = true
	direct, through := httpClient(t, l.RESTConfig(lab.Masters)), httpClient(t, g.config())
	do := func(method, path, body string) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, l.APIServerURL(0)+path, strings.NewReader(body))
		check(t, err)
		r.Header.Set("Content-Type", "application/json")
		if method == http.MethodPatch {
			r.Header.Set("Content-Type", string(types.MergePatchType))
		}
		response, err := direct.Do(r)
		check(t, err)
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		check(t, err)
		if response.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s", method, path, b)
		}
		return b
	}
	for _, namespace := range []string{"filter-a", "filter-b"} {
		_, err := g.direct.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		check(t, err)
		testkit.Within(t, "the namespace has its account", 20*time.Second, func() bool {
			_, err := g.direct.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
			return err == nil
		})
	}
	do(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", gadgets)
	testkit.Within(t, "the kind is served", 20*time.Second, func() bool {
		response, err := direct.Get(l.APIServerURL(0) + "/apis/watch.example.com/v1/gadgets")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode == http.StatusOK
	})

	kinds := []struct {
		root, plural, accept string
		make                 func(name, app string) string
	}{
		{"/api/v1", "configmaps", frame.JSON, func(name, app string) string {
			return fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"app":%q}},"data":{"text":"\u2028<&>"}}`, name, app)
		}},
		{"/api/v1", "configmaps", frame.Protobuf, nil},
		{"/apis/watch.example.com/v1", "gadgets", frame.JSON, func(name, app string) string {
			return fmt.Sprintf(`{"apiVersion":"watch.example.com/v1","kind":"Gadget","metadata":{"name":%q,"labels":{"app":%q}},"spec":{"nodeName":7},"a":{"metadata":{"resourceVersion":"1"}}}`, name, app)
		}},
		{"/api/v1", "pods", frame.JSON, func(name, app string) string {
			return fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"app":%q}},"spec":{"schedulerName":"nobody","containers":[{"name":"c","image":"i"}]}}`, name, app)
		}},
		{"/api/v1", "pods", frame.Protobuf, nil},
	}
	selectors := []url.Values{
		{"labelSelector": {"app=a"}},
		{"labelSelector": {"app in (a,b)"}},
		{"labelSelector": {"app!=a"}},
		{"labelSelector": {"!app"}},
		{"fieldSelector": {"metadata.name=o-1"}},
		{"fieldSelector": {"metadata.namespace!=filter-a"}},
		{"fieldSelector": {"metadata.name!=o-2"}, "labelSelector": {"app"}},
	}
	nodes := []url.Values{
		{"fieldSelector": {"spec.nodeName=" + lab.NodeName(1)}},
		{"fieldSelector": {"spec.nodeName="}},
		{"fieldSelector": {"spec.nodeName!=" + lab.NodeName(0)}, "labelSelector": {"app=a"}},
	}

	r := rand.New(rand.NewPCG(3, 3))
	apps := []string{"a", "b", "c"}
	live := map[string]bool{}
	write := func(kind int) {
		k := kinds[kind]
		namespace, name := []string{"filter-a", "filter-b"}[r.IntN(2)], fmt.Sprintf("o-%d", r.IntN(5))
		path := k.root + "/namespaces/" + namespace + "/" + k.plural
		id := path + "/" + name
		switch n := r.IntN(10); {
		case !live[id]:
			do(http.MethodPost, path, k.make(name, apps[r.IntN(3)]))
			live[id] = true
		case n < 2:
			do(http.MethodDelete, id+"?gracePeriodSeconds=0", "")
			live[id] = false
		case n < 4 && k.plural == "pods":
			node := lab.NodeName(r.IntN(3))
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Binding","metadata":{"name":%q},"target":{"kind":"Node","name":%q}}`, name, node)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.APIServerURL(0)+id+"/binding", strings.NewReader(body))
			check(t, err)
			request.Header.Set("Content-Type", "application/json")
			response, err := direct.Do(request) // refused when the pod has a node already
			check(t, err)
			_ = response.Body.Close()
		case n < 5:
			do(http.MethodPatch, id, `{"metadata":{"labels":{"app":null}}}`)
		default:
			do(http.MethodPatch, id, fmt.Sprintf(`{"metadata":{"labels":{"app":%q},"annotations":{"n":"%d"}}}`, apps[r.IntN(3)], r.IntN(1000)))
		}
	}
	round := func(writes int) {
		for range writes {
			for _, kind := range []int{0, 2, 3} {
				write(kind)
			}
		}
	}
	round(20)

	type pair struct{ direct, through *recorded }
	var pairs []pair
	var running sync.WaitGroup
	for _, k := range kinds {
		wanted := selectors
		if k.plural == "pods" {
			wanted = append(nodes[:len(nodes):len(nodes)], selectors...)
		}
		// Some come from before what the shared watch begins with, and go over to it.
		versions := []string{versionOf(t, do(http.MethodGet, k.root+"/"+k.plural+"?limit=1", ""))}
		round(2)
		versions = append(versions, versionOf(t, do(http.MethodGet, k.root+"/"+k.plural+"?limit=1", "")))
		for i, selector := range wanted {
			query := url.Values{"watch": {"1"}, "resourceVersion": {versions[i%2]}, "timeoutSeconds": {"25"}, "allowWatchBookmarks": {"true"}}
			for name, value := range selector {
				query[name] = value
			}
			path := k.root + "/" + k.plural
			if i%3 == 1 {
				path = k.root + "/namespaces/filter-b/" + k.plural
			}
			pairs = append(pairs, pair{
				record(t, &running, direct, l.APIServerURL(0), path, k.accept, query),
				record(t, &running, through, g.server.URL, path, k.accept, query),
			})
		}
		round(3)
	}
	round(60)
	running.Wait()

	events := 0
	types := map[string]int{}
	for _, p := range pairs {
		if p.direct.err != nil || p.through.err != nil {
			t.Errorf("%s: errors %v, %v", p.direct.name, p.direct.err, p.through.err)
		}
		if diff := cmp.Diff(p.direct.events, p.through.events); diff != "" {
			t.Errorf("%s: %d events direct, %d through the hub (-direct +hub):\n%.3000s", p.direct.name, len(p.direct.events), len(p.through.events), diff)
		}
		events += len(p.direct.events)
		for _, e := range p.direct.events {
			types[e.Type]++
		}
	}
	moved, caught := g.counter("seakeep_gate_relay_watch_moved_total"), g.counter("seakeep_gate_relay_watch_catch_ups_total")
	t.Logf("%d pairs of watches, %d events the same (%v); %v of %v subscribers went over to the filtered watch", len(pairs), events, types, moved, caught)
	if events < 500 || types["ADDED"] < 50 || types["DELETED"] < 50 || moved < 5 || g.counter("seakeep_gate_relay_watch_upstreams") > float64(len(kinds)) || g.forwarded.Load() > 0 {
		t.Errorf("too tame: %d forwarded", g.forwarded.Load())
	}
}

func versionOf(t *testing.T, list []byte) string {
	t.Helper()
	version, ok, _ := frame.ListVersion(frame.JSON, false, list)
	if !ok {
		if version, ok = frame.ListVersionTail(bytes.TrimSpace(list)); !ok {
			t.Fatalf("no version in %.200s", list)
		}
	}
	return strconv.FormatUint(version, 10)
}
