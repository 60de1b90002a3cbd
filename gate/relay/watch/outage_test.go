package watch_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/relay/frame"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// The API server is killed and started again under the watches: no informer lists again, and none misses anything.
func TestAPIServerRestarts(t *testing.T) {
	l := cluster(t)
	g := newRig(t, l, watch.Options{}, true)
	c := newChurn(t, g.direct, "restarts", 2)
	c.steps(20)
	var all []*informer
	for range 8 {
		all = append(all, startInformer(t, g.config(), "restarts", func(*metav1.ListOptions) {}))
	}
	compare(t, g, "restarts", all)
	c.steps(20)
	compare(t, g, "restarts", all)

	server, ok := l.Process("kube-apiserver")
	if !ok {
		t.Fatal("the lab has no API server")
	}
	server.Kill()
	check(t, server.Start(t.Context()))
	c.steps(40)
	compare(t, g, "restarts", all)
	for i, informer := range all {
		if n := informer.lists.Load(); n != 1 {
			t.Errorf("informer %d has listed %d times, want once", i, n)
		}
	}
	status := g.hub.Status()
	if len(status) != 1 || status[0].Resumed == 0 || status[0].Readers != 8 {
		t.Errorf("status %+v, want one watch with 8 readers that was resumed", status)
	}
}

// What is too old for the API server is told in its own words, to those it is about.
func TestGone(t *testing.T) {
	l := cluster(t)
	g := newRig(t, l, watch.Options{}, false)
	direct, through := httpClient(t, l.RESTConfig(lab.Masters)), httpClient(t, g.config())
	response, err := direct.Post(l.APIServerURL(0)+"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/json", strings.NewReader(strings.ReplaceAll(gadgets, "watch.example.com", "gone.example.com")))
	check(t, err)
	_ = response.Body.Close()
	const path = "/apis/gone.example.com/v1/gadgets"
	version := ""
	testkit.Within(t, "the kind is served", 20*time.Second, func() bool {
		response, err := direct.Get(l.APIServerURL(0) + path)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusOK {
			return false
		}
		version = versionOf(t, b)
		return true
	})
	get := func(client *http.Client, base, version string) (int, string) {
		response, err := client.Get(base + path + "?watch=1&timeoutSeconds=4&resourceVersion=" + version)
		check(t, err)
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		check(t, err)
		return response.StatusCode, string(b)
	}
	wantCode, want := get(direct, l.APIServerURL(0), "1")
	var running sync.WaitGroup
	for range 5 {
		running.Go(func() {
			if code, got := get(through, g.server.URL, "1"); code != wantCode || got != want {
				t.Errorf("from version 1: %d %q, want %d %q", code, got, wantCode, want)
			}
		})
		running.Go(func() {
			if code, got := get(through, g.server.URL, version); code != http.StatusOK || strings.Contains(got, "ERROR") {
				t.Errorf("from version %s, which is young: %d %q", version, code, got)
			}
		})
	}
	running.Wait()
	if !strings.Contains(want, `"code":410`) || g.followed.Load() != 10 {
		t.Errorf("the API server says %q; %d watches were followed", want, g.followed.Load())
	}
}

// A reader that takes nothing is cut loose when the events it has not had are let go; another is told every event at once
// all the while, and the slow one's stream is whole as far as it goes.
func TestSlowReader(t *testing.T) {
	l := cluster(t)
	g := newRig(t, l, watch.Options{Events: 20}, false)
	_, err := g.direct.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "slow"}}, metav1.CreateOptions{})
	check(t, err)
	maps := g.direct.CoreV1().ConfigMaps("slow")
	list, err := maps.List(t.Context(), metav1.ListOptions{})
	check(t, err)
	path := "/api/v1/namespaces/slow/configmaps?watch=1&resourceVersion=" + list.ResourceVersion

	// The slow one: a connection nothing is read from.
	conn, err := tls.DialWithDialer(&net.Dialer{}, "tcp", g.server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	check(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: gate\r\n\r\n", path)
	check(t, err)
	testkit.Within(t, "the slow one follows", 10*time.Second, func() bool { return len(g.hub.Status()) == 1 && g.hub.Status()[0].Live })

	response, err := httpClient(t, g.config()).Get(g.server.URL + path)
	check(t, err)
	defer response.Body.Close()
	var mu sync.Mutex
	arrived := map[string]time.Time{}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		lines := bufio.NewReader(response.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			name, _, _ := strings.Cut(strings.SplitN(line, `"name":"`, 2)[1], `"`)
			mu.Lock()
			arrived[name] = time.Now()
			mu.Unlock()
		}
	})

	var delays []time.Duration
	large := strings.Repeat("x", 500<<10)
	for i := range 60 {
		name := fmt.Sprintf("big-%d", i)
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"x": large}}, metav1.CreateOptions{})
		check(t, err)
		written := time.Now()
		testkit.Within(t, name+" arrives at the other", 10*time.Second, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return !arrived[name].IsZero()
		})
		mu.Lock()
		delays = append(delays, arrived[name].Sub(written))
		mu.Unlock()
	}
	slices.Sort(delays)
	t.Logf("an event arrives at the other %s (median), %s (latest) after it was written", delays[len(delays)/2], delays[len(delays)-1])
	if status := g.hub.Status()[0]; status.Events > 20 || status.Bytes > 30<<20 {
		t.Errorf("%d events and %d bytes are kept", status.Events, status.Bytes)
	}

	// Now it reads: what it gets are whole events in order, and then a clean end.
	slow, err := http.ReadResponse(bufio.NewReader(conn), nil)
	check(t, err)
	s, err := frame.NewScanner(slow.Header.Get("Content-Type"))
	check(t, err)
	buffer, last, n := make([]byte, 64<<10), uint64(0), 0
	for {
		k, readErr := slow.Body.Read(buffer)
		for f, err := range s.Frames(buffer[:k]) {
			check(t, err)
			if f.Version <= last {
				t.Errorf("version %d after %d", f.Version, last)
			}
			last = f.Version
			n++
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		check(t, readErr)
	}
	if s.Pending() > 0 || n == 0 || n >= 60 {
		t.Errorf("the slow one got %d events of 60 and %d bytes of another", n, s.Pending())
	}
	if got := g.counter("seakeep_gate_relay_watch_dropped_total"); got != 1 {
		t.Errorf("%v were dropped, want 1", got)
	}
	_ = response.Body.Close()
}
