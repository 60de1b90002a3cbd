package transparency_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/gatetest"
)

// seen is what an aggregated API server is asked, as far as it may not differ.
type seen struct {
	Method, Target, Host string
	Header               http.Header
	BodyBytes            int64
	BodySum              string
}

// An aggregated API server that says what it was asked: it stands behind the real API server, and sees what that passes on.
func echo(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/duplex") {
		duplex(w, r)
		return
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	header := r.Header.Clone()
	for name := range header {
		// The API server's own, which name the connection or the moment; who asks is compared elsewhere.
		if strings.HasPrefix(name, "X-Remote-Extra-") || slices.Contains([]string{"X-Forwarded-For", "Audit-Id", "Traceparent"}, name) {
			header.Del(name)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Of-The-Extension", "kept")
	w.Header().Set("Trailer", "X-Sum")
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, header, n, fmt.Sprintf("%x", sum.Sum(nil))})
	w.Header().Set("X-Sum", "in a trailer")
}

// duplex answers every line as soon as it has come.
func duplex(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	lines := bufio.NewReader(r.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(w, "heard ", line)
		_ = control.Flush()
	}
}

// TestAggregated sends to an API server behind the API server what the API server itself would not pass on or would not
// tell: odd paths, large bodies, headers, trailers, and a body and an answer that are both under way.
func TestAggregated(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{More: "defaultLimits: Disabled\n" + sharing()})
	w := prepare(t, l)
	extension := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	extension.EnableHTTP2 = true
	extension.StartTLS()
	t.Cleanup(extension.Close)
	aggregate(t, w, extension.URL)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			direct, gate := v.sides(n, w.vars, w.vars)
			const root = "/apis/echo.seakeep.dev/v1/"
			for what, step := range map[string]*step{
				"encoded slashes, dots and doubles": newStep(0, "GET", root+"a%2Fb/c/%2e%2e/d//e;f=g?x=%2f&y"),
				"a query nobody can parse":          newStep(0, "GET", root+"q?a;b&%zz=%&&c=1&c=2&%E4"),
				"characters one should encode":      newStep(0, "GET", root+`a|b"<c>`),
				"an empty query":                    newStep(0, "GET", root+"q?"),
				"a HEAD":                            newStep(0, "HEAD", root+"q"),
				"an OPTIONS":                        newStep(0, "OPTIONS", root+"q"),
				"a method of its own":               newStep(0, "REPORT", root+"q"),
				"twenty megabytes":                  {method: "POST", target: root + "q", header: http.Header{}, body: strings.Repeat("0123456789", 2<<20), hasBody: true},
				"headers": {method: "GET", target: root + "q", header: http.Header{
					"Accept": {"a/b", "c/d;q=0.5"}, "X-Twice": {"1", "2"}, "X-Empty": {""}, "Cookie": {"a=b"}, "Origin": {"https://elsewhere"}, "If-None-Match": {`"x"`},
					"Range": {"bytes=0-1"}, "Forwarded": {"for=192.0.2.7"}, "X-Forwarded-Host": {"outside"}, "X-Forwarded-Proto": {"gopher"},
					"Te": {"trailers"}, "Idempotency-Key": {"k"}, "Accept-Encoding": {"gzip"}, "Via": {"1.1 before"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
				}},
			} {
				t.Run(what, func(t *testing.T) {
					d, g := direct.send(t, step), gate.send(t, step)
					if diff := compare(t, d, g, unmasked); diff != "" {
						t.Errorf("-direct +gate:\n%s", diff)
					}
					if step.method == "POST" && !strings.Contains(string(g.body), `"BodyBytes":20971520`) {
						t.Errorf("the extension got %s", g.body)
					}
					if d.status != http.StatusOK && what != "an OPTIONS" {
						t.Errorf("the direct answer is %d %s", d.status, d.body)
					}
				})
			}
			if v.http2 { // the API server reads an HTTP/1.1 request to its end before it answers
				t.Run("both ways at once", func(t *testing.T) { talk(t, direct, gate, root+"duplex") })
			}
		})
	}
}

// talk sends a line and waits for its answer before it sends the next.
func talk(t *testing.T, direct, gate *side, target string) {
	said := map[string][]string{}
	for name, s := range map[string]*side{"direct": direct, "gate": gate} {
		body, feed := io.Pipe()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.host+target, body)
		check(t, err)
		maps.Copy(request.Header, s.header)
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := io.WriteString(feed, "hello\n"); err != nil {
				t.Error(err)
			}
		})
		response, err := s.client.Do(request)
		check(t, err)
		first.Wait()
		answers := bufio.NewReader(response.Body)
		for i := range 5 {
			answer, err := answers.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: after %d answers: %v", name, i, err)
			}
			said[name] = append(said[name], answer)
			_, err = io.WriteString(feed, "line "+strconv.Itoa(i)+"\n")
			check(t, err)
		}
		check(t, feed.Close())
		_, err = io.Copy(io.Discard, answers)
		check(t, err)
		check(t, response.Body.Close())
	}
	if diff := cmp.Diff(said["direct"], said["gate"]); diff != "" || len(said["gate"]) != 5 {
		t.Errorf("-direct +gate:\n%s", diff)
	}
}

// aggregate registers the extension by a Service that is a name only, because nothing routes to cluster addresses here.
func aggregate(t *testing.T, w *world, extension string) {
	t.Helper()
	at, err := url.Parse(extension)
	check(t, err)
	port, err := strconv.ParseInt(at.Port(), 10, 32)
	check(t, err)
	_, err = w.client.CoreV1().Services(readNamespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "echo"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	made(t, err)
	service := map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1.echo.seakeep.dev"},
		"spec": map[string]any{
			"group": "echo.seakeep.dev", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 1, "insecureSkipTLSVerify": true,
			"service": map[string]any{"namespace": readNamespace, "name": "echo", "port": port},
		},
	}
	text, err := json.Marshal(service)
	check(t, err)
	const collection = "/apis/apiregistration.k8s.io/v1/apiservices"
	post := w.client.CoreV1().RESTClient().Post().AbsPath(collection).SetHeader("Content-Type", "application/json").Body(text).Do(t.Context())
	check(t, post.Error())
	// The lab is shared: an API that is gone would hold up whoever asks for all of them.
	t.Cleanup(func() {
		check(t, w.client.CoreV1().RESTClient().Delete().AbsPath(collection, "v1.echo.seakeep.dev").Do(context.WithoutCancel(t.Context())).Error())
	})
	within(t, "the API server passes on to the extension", func() bool {
		return w.client.CoreV1().RESTClient().Get().AbsPath("/apis/echo.seakeep.dev/v1/q").Do(t.Context()).Error() == nil
	})
}
