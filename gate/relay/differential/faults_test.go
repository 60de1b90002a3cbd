package differential

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// large makes ConfigMaps of a size each, which do not compress to nothing.
func large(t *testing.T, kube kubernetes.Interface, ns string, count, size int) {
	t.Helper()
	namespace(t, kube, ns)
	var making sync.WaitGroup
	places := make(chan struct{}, 8)
	for i := range count {
		places <- struct{}{}
		making.Go(func() {
			defer func() { <-places }()
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i)}, Data: map[string]string{"text": noise(i, size)}}
			if _, err := kube.CoreV1().ConfigMaps(ns).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	making.Wait()
}

// noise is text of a length that gzip halves at best.
func noise(seed, n int) string {
	var b strings.Builder
	state := uint64(seed)*2654435761 + 1
	for b.Len() < n {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		fmt.Fprintf(&b, "%016x", state)
	}
	return b.String()[:n]
}

// get reads a path to the end of its body; the status alone says nothing.
func get(ctx context.Context, client *http.Client, url, encoding string) (code int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Accept-Encoding", encoding)
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err == nil && response.Header.Get("Content-Encoding") == "gzip" {
		z, zerr := gzip.NewReader(bytes.NewReader(body))
		if zerr != nil {
			return response.StatusCode, body, zerr
		}
		body, err = io.ReadAll(z)
	}
	return response.StatusCode, body, err
}

// TestLargeObjectsAndManyOfThem: objects of a megabyte, the most the API server takes, and some thousand small ones. Every
// answer is the API server's own, byte for byte, packed or not, and a watch brings an event of a megabyte whole.
func TestLargeObjectsAndManyOfThem(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	lane := gatetest.Open(t, l, gatetest.Options{More: everything})
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	for ns, shape := range map[string][2]int{"megabytes": {12, 1_000_000}, "thousands": {3000, 200}} {
		t.Run(ns, func(t *testing.T) {
			large(t, masters, ns, shape[0], shape[1])
			path := "/api/v1/namespaces/" + ns + "/configmaps"
			certificate := lane.Certificate(lab.Admin)
			_, want, err := get(t.Context(), lane.HTTP(true, certificate), l.APIServerURL(0)+path, "identity")
			check(t, err)
			var reading sync.WaitGroup
			for i := range 12 {
				client := lane.HTTP(i%2 == 0, certificate)
				reading.Go(func() {
					code, got, err := get(t.Context(), client, lane.URL+path, []string{"identity", "gzip"}[i%3%2])
					if err != nil || code != http.StatusOK || !sameList(got, want) {
						t.Errorf("reader %d: status %d, %d bytes instead of %d, %v", i, code, len(got), len(want), err)
					}
				})
			}
			reading.Wait()
		})
	}
	t.Run("watched", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer func() { cancel(); running.Wait() }()
		list, err := masters.CoreV1().ConfigMaps("megabytes").List(ctx, metav1.ListOptions{Limit: 1})
		check(t, err)
		path := "/api/v1/namespaces/megabytes/configmaps?watch=true&resourceVersion=" + list.ResourceVersion
		certificate := lane.Certificate(lab.Admin)
		direct := record(ctx, t, &running, lane.HTTP(true, certificate), l.APIServerURL(0)+path, "direct")
		var watches []*recorder
		for range 5 {
			watches = append(watches, record(ctx, t, &running, lane.HTTP(true, certificate), lane.URL+path, "gate"))
		}
		object := list.Items[0].DeepCopy()
		object.Data["text"] = noise(99, 1_000_000)
		object, err = masters.CoreV1().ConfigMaps("megabytes").Update(ctx, object, metav1.UpdateOptions{})
		check(t, err)
		for _, r := range append([]*recorder{direct}, watches...) {
			eventually(t, 20*time.Second, func() error { return r.has(object.ResourceVersion) })
		}
		for _, r := range watches {
			if text := firstDifference(r.all(), direct.all()); text != "" {
				t.Errorf("an event of a megabyte is not what the API server sends (%d bytes of difference)", len(text))
			}
		}
	})
}

// sameList compares lists whose version may have moved: nothing else was written to their resource, but the version is
// etcd's, which everything moves.
func sameList(a, b []byte) bool {
	cut := func(list []byte) []byte {
		_, items, _ := bytes.Cut(list, []byte(`"items":[`))
		return items
	}
	return len(a) > 0 && bytes.Equal(cut(a), cut(b)) && bytes.HasSuffix(a, []byte("]}\n"))
}

// TestSlowReader reads at 10 KB/s beside fast ones: they do not wait for it, and what it gets is whole or cut, never short.
func TestSlowReader(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	lane := gatetest.Open(t, l, gatetest.Options{More: everything})
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	large(t, masters, "slowly", 8, 500_000)
	path := "/api/v1/namespaces/slowly/configmaps"
	certificate := lane.Certificate(lab.Admin)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer func() { cancel(); reading.Wait() }()
	began := make(chan struct{})
	reading.Go(func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, lane.URL+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		response, err := lane.HTTP(false, certificate).Do(request)
		if err != nil {
			t.Error(err)
			return
		}
		defer response.Body.Close()
		close(began)
		ticks := time.NewTicker(100 * time.Millisecond)
		defer ticks.Stop()
		for total := int64(0); ; {
			n, err := io.CopyN(io.Discard, response.Body, 1000)
			if total += n; err != nil {
				if ctx.Err() == nil {
					t.Errorf("the slow reader's answer ended after %d bytes: %v", total, err)
				}
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
		}
	})
	<-began
	_, want, err := get(t.Context(), lane.HTTP(true, certificate), l.APIServerURL(0)+path, "identity")
	check(t, err)
	var slowest atomic.Int64
	var fast sync.WaitGroup
	for range 20 {
		client := lane.HTTP(true, certificate)
		fast.Go(func() {
			for range 3 {
				since := time.Now()
				code, got, err := get(t.Context(), client, lane.URL+path, "identity")
				if err != nil || code != http.StatusOK || !sameList(got, want) {
					t.Errorf("a fast reader: status %d, %d bytes instead of %d, %v", code, len(got), len(want), err)
				}
				slowest.Store(max(slowest.Load(), int64(time.Since(since))))
			}
		})
	}
	fast.Wait()
	t.Logf("the slowest of 60 fast answers took %s", time.Duration(slowest.Load()))
	if took := time.Duration(slowest.Load()); took > 20*time.Second { // at 10 KB/s it would be minutes
		t.Errorf("a fast reader waited %s beside a slow one", took)
	}
}

// between stands between the gate and the API server, as the same to both, and breaks what it is told to.
type between struct {
	url string
	// cut breaks the answers to shared reads off after so many bytes; 0: not.
	cut atomic.Int64
	// deaf answers reviews with 500.
	deaf atomic.Bool
	// broken counts answers that were broken off.
	broken atomic.Int64
	// close ends it, before the gate is looked through for what it left.
	close func()
}

func openBetween(t *testing.T, l *lab.Lab) *between {
	t.Helper()
	p := l.PKI()
	serving, err := tls.LoadX509KeyPair(p.ServingCert, p.ServingKey)
	check(t, err)
	proxyCertificate, err := tls.LoadX509KeyPair(p.FrontProxyCert, p.FrontProxyKey)
	check(t, err)
	roots, err := pki.LoadPool(l.CAFile())
	check(t, err)
	target, err := url.Parse(l.APIServerURL(0))
	check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	b := &between{url: "https://" + listener.Addr().String()}
	transport := func(certificates ...tls.Certificate) *http.Transport {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, DisableCompression: true}
	}
	asProxy, asNobody := transport(proxyCertificate), transport()
	through := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			way := asNobody
			if r.Header.Get("X-Remote-User") != "" {
				way = asProxy
			}
			response, err := way.RoundTrip(r)
			if limit := b.cut.Load(); err == nil && limit > 0 && strings.HasPrefix(r.Header.Get("User-Agent"), "seakeep-gate/relay") && strings.Contains(r.URL.Path, "/configmaps") {
				response.Body = &breaking{ReadCloser: response.Body, left: limit, broken: &b.broken}
			}
			return response, err
		}),
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if b.deaf.Load() && strings.HasSuffix(r.URL.Path, "reviews") {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			through.ServeHTTP(w, r)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{serving}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert},
		ErrorLog:  nil,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(listener, "", "")
	}()
	b.close = sync.OnceFunc(func() {
		_ = server.Close()
		asProxy.CloseIdleConnections()
		asNobody.CloseIdleConnections()
		<-done
	})
	t.Cleanup(b.close)
	return b
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// breaking is a body that fails after some bytes.
type breaking struct {
	io.ReadCloser
	left   int64
	broken *atomic.Int64
}

// Read implements io.Reader.
func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.broken.Add(1)
		return 0, errors.New("the API server died")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// TestUpstreamDiesInMidAnswer breaks shared LISTs and WatchLists off in their middle. Each reader must be able to tell: by
// an error of its connection, never by a body that ends as if it were whole.
func TestUpstreamDiesInMidAnswer(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	b := openBetween(t, l)
	lane := gatetest.Open(t, l, gatetest.Options{Upstream: b.url, More: everything})
	t.Cleanup(b.close)
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	large(t, masters, "broken", 20, 50_000)
	const list = "/api/v1/namespaces/broken/configmaps"
	certificate := lane.Certificate(lab.Admin)
	if code, body, err := get(t.Context(), lane.HTTP(true, certificate), lane.URL+list, "identity"); err != nil || code != http.StatusOK || len(body) < 1_000_000 {
		t.Fatalf("before anything breaks: status %d, %d bytes, %v", code, len(body), err)
	}
	b.cut.Store(300_000)
	for _, path := range []string{list, list + "?resourceVersion=0", list + "?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=20"} {
		for _, http2 := range []bool{true, false} {
			for _, encoding := range []string{"identity", "gzip"} {
				t.Run(fmt.Sprintf("%s, HTTP/2 %t, %s", path[len(list):], http2, encoding), func(t *testing.T) {
					before := b.broken.Load()
					var reading sync.WaitGroup
					for i := range 6 {
						client := lane.HTTP(http2, certificate)
						reading.Go(func() {
							code, body, err := get(t.Context(), client, lane.URL+path, encoding)
							if err == nil && code == http.StatusOK {
								t.Errorf("reader %d: %d bytes came of an answer that was broken off, and nothing says so", i, len(body))
							}
						})
					}
					reading.Wait()
					if b.broken.Load() == before {
						t.Error("nothing was broken off")
					}
				})
			}
		}
	}
	b.cut.Store(0)
	if code, body, err := get(t.Context(), lane.HTTP(true, certificate), lane.URL+list, "identity"); err != nil || code != http.StatusOK || !bytes.HasSuffix(body, []byte("]}\n")) {
		t.Errorf("when it is over: status %d, %d bytes, %v", code, len(body), err)
	}
}

// TestAuthorizerDown: while reviews cannot be had, requests are forwarded, and the API server decides.
func TestAuthorizerDown(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	b := openBetween(t, l)
	lane := gatetest.Open(t, l, gatetest.Options{Upstream: b.url, More: everything})
	t.Cleanup(b.close)
	b.deaf.Store(true)
	list := func(id lab.Identity) error {
		_, err := lane.Client(id).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return err
	}
	for range 5 {
		if err := list(lab.Admin); err != nil {
			t.Errorf("whoever may read could not: %v", err)
		}
		if err := list(lab.User("nobody")); err == nil {
			t.Error("whoever may not read could")
		}
	}
	if n := counter(t, lane, forwardedTotal, "authorizer"); n != 10 {
		t.Errorf("want 10 requests forwarded because of the authorizer, got %v", n)
	}
	b.deaf.Store(false)
	eventually(t, 20*time.Second, func() error {
		check(t, list(lab.Admin))
		if counter(t, lane, answersTotal) == 0 {
			return errors.New("nothing is shared again")
		}
		return nil
	})
}

// TestMemoryBound: when what is held for readers reaches the bound, requests are forwarded and counted, and every answer is
// whole all the same.
func TestMemoryBound(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 1})
	lane := gatetest.Open(t, l, gatetest.Options{More: strings.Replace(everything, "{rules", "{maxMemory: 16Mi, rules", 1)})
	masters := gatetest.Clientset(t, lane.Direct(lab.Masters))
	large(t, masters, "bounded", 60, 900_000)
	const path = "/api/v1/namespaces/bounded/configmaps"
	certificate := lane.Certificate(lab.Admin)
	_, want, err := get(t.Context(), lane.HTTP(true, certificate), l.APIServerURL(0)+path, "identity")
	check(t, err)
	// Readers that begin and take nothing hold what they have not read, but for what the sockets take.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const bound = 16 << 20
	for i := 0; counter(t, lane, memoryBytes) <= bound/8*7; i++ {
		if i == 4 {
			t.Fatalf("%d readers that take nothing hold %v bytes", i, counter(t, lane, memoryBytes))
		}
		stall(ctx, t, lane, fmt.Sprintf("%s?labelSelector=absent%%21%%3D%d", path, i))
		for deadline := time.Now().Add(5 * time.Second); counter(t, lane, memoryBytes) <= bound/8*7 && time.Now().Before(deadline); {
			runtime.Gosched() // it is still being read
		}
	}
	before := counter(t, lane, forwardedTotal, "memory")
	var reading sync.WaitGroup
	for range 6 {
		client := lane.HTTP(true, certificate)
		reading.Go(func() {
			code, got, err := get(t.Context(), client, lane.URL+path, "identity")
			if err != nil || code != http.StatusOK || !sameList(got, want) {
				t.Errorf("status %d, %d bytes instead of %d, %v", code, len(got), len(want), err)
			}
		})
	}
	reading.Wait()
	if n := counter(t, lane, forwardedTotal, "memory") - before; n != 6 {
		t.Errorf("want 6 requests forwarded because of the bound, got %v", n)
	}
	if used := counter(t, lane, memoryBytes); used > bound {
		t.Errorf("%v bytes are held, of %d", used, bound)
	}
}

// stall begins to read an answer and reads no further.
func stall(ctx context.Context, t *testing.T, lane *gatetest.Lane, path string) {
	t.Helper()
	config, err := rest.TLSConfigFor(lane.Config(lab.Admin))
	check(t, err)
	config.NextProtos = []string{"http/1.1"}
	conn, err := lane.Dial(ctx, "tcp", strings.TrimPrefix(lane.URL, "https://"))
	check(t, err)
	client := tls.Client(conn, config)
	config.ServerName = "localhost"
	_, err = fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n", path)
	check(t, err)
	response, err := http.ReadResponse(bufio.NewReader(client), nil)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("a reader that will stall was answered %s", response.Status)
	}
	context.AfterFunc(ctx, func() { _ = client.Close() })
}
