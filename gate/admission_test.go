package gate_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// narrow is admission with seats for three requests.
const narrow = `
defaultLimits: Disabled
overload:
  mode: %s
  limit: {min: 3, max: 3, initial: 3}
  levels: [{name: interactive, queues: 1, queueLength: 4, maxWait: 500ms}]
`

// overload is what the gate says of admission.
func overload(t *testing.T, n *gatetest.Lane) *admit.Status {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return n.Dial(ctx, "unix", n.Socket())
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://gate/v1/overload", nil)
	check(t, err)
	response, err := client.Do(request)
	check(t, err)
	defer response.Body.Close()
	status := &admit.Status{}
	check(t, json.NewDecoder(response.Body).Decode(status))
	return status
}

// held is how many seats are held in all levels.
func held(s *admit.Status) int {
	total := 0
	for _, l := range s.Levels {
		total += l.InUse
	}
	return total
}

// heavy makes ConfigMaps that are slow to read.
func heavy(t *testing.T, client *kubernetes.Clientset, ns string) {
	t.Helper()
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	check(t, err)
	random := rand.New(rand.NewPCG(1, 1))
	text := make([]byte, 900_000)
	for i := range text {
		text[i] = 'a' + byte(random.IntN(26))
	}
	for i := range 6 {
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("heavy-", i)}, Data: map[string]string{"text": string(text)},
		}, metav1.CreateOptions{})
		check(t, err)
	}
}

// stalled begins to read an answer and reads no further.
func stalled(ctx context.Context, t *testing.T, n *gatetest.Lane, path string) (code int) {
	t.Helper()
	config, err := rest.TLSConfigFor(n.Config(lab.Admin))
	check(t, err)
	config.NextProtos, config.ServerName = []string{"http/1.1"}, "localhost"
	conn, err := n.Dial(ctx, "tcp", strings.TrimPrefix(n.URL, "https://"))
	check(t, err)
	client := tls.Client(conn, config)
	context.AfterFunc(ctx, func() { _ = client.Close() })
	_, err = fmt.Fprintf(client, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n", path)
	check(t, err)
	response, err := http.ReadResponse(bufio.NewReader(client), nil) //nolint:bodyclose // what it does not read is the point
	check(t, err)
	return response.StatusCode
}

// TestAdmission is a gate whose API servers can take next to nothing.
func TestAdmission(t *testing.T) {
	l := cluster(t)
	heavy(t, gatetest.Clientset(t, l.RESTConfig(lab.Masters)), "admission")
	const path = "/api/v1/namespaces/admission/configmaps"

	t.Run("readers who do not read give their seats to others", func(t *testing.T) {
		n := openLane(t, l, fmt.Sprintf(narrow, v1alpha1.OverloadEnforce))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if code := stalled(ctx, t, n, path); code != http.StatusOK {
			t.Fatalf("status %d", code)
		}
		if held(overload(t, n)) == 0 {
			t.Fatal("a LIST under way holds no seats")
		}
		testkit.Within(t, "the seats are free again", 20*time.Second, func() bool { return held(overload(t, n)) == 0 })
		_, err := n.Client(lab.Admin).CoreV1().ConfigMaps("admission").List(t.Context(), metav1.ListOptions{})
		check(t, err)
	})

	t.Run("what does not fit gets 429 and watches too", func(t *testing.T) {
		n := openLane(t, l, fmt.Sprintf(narrow, v1alpha1.OverloadEnforce))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stalled(ctx, t, n, path)
		certificate := n.Certificate(lab.Admin)
		var refused, well atomic.Int64
		var asking sync.WaitGroup
		for range 40 {
			client := n.HTTP(false, certificate)
			asking.Go(func() {
				response, err := ask(ctx, client, n.URL+path+"?watch=true&resourceVersion=0&timeoutSeconds=1")
				if err != nil {
					t.Error(err)
					return
				}
				switch response.StatusCode {
				case http.StatusOK:
					well.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
					if response.Header.Get("Retry-After") == "" {
						t.Error("429 without Retry-After")
					}
				default:
					t.Errorf("a watch got %s", response.Status)
				}
			})
		}
		asking.Wait()
		if refused.Load() == 0 {
			t.Errorf("%d watches were turned away of 40, where 3 fit and 4 may wait", refused.Load())
		}
		// The cluster's own go on beside it.
		node := n.Client(lab.Node(lab.NodeName(0)))
		_, err := node.CoreV1().Nodes().Get(t.Context(), lab.NodeName(0), metav1.GetOptions{})
		check(t, err)
		cancel()
		testkit.Within(t, "nothing is held", 20*time.Second, func() bool { return held(overload(t, n)) == 0 })
	})

	t.Run("streams hold nothing once they are open", func(t *testing.T) {
		n := openLane(t, l, fmt.Sprintf(narrow, v1alpha1.OverloadEnforce))
		admin := n.Client(lab.Admin)
		list, err := admin.CoreV1().ConfigMaps("admission").List(t.Context(), metav1.ListOptions{Limit: 1})
		check(t, err)
		for range 20 {
			w, err := admin.CoreV1().ConfigMaps("admission").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
			check(t, err)
			defer w.Stop()
		}
		// One that sends what exists holds its seats until it has.
		w, err := admin.CoreV1().ConfigMaps("admission").Watch(t.Context(), metav1.ListOptions{
			SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
		})
		check(t, err)
		defer w.Stop()
		for event := range w.ResultChan() {
			if c, ok := event.Object.(*corev1.ConfigMap); ok && c.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
				break
			}
		}
		testkit.Within(t, "nothing is held", 20*time.Second, func() bool { return held(overload(t, n)) == 0 })
	})

	t.Run("in shadow nobody is turned away", func(t *testing.T) {
		n := openLane(t, l, fmt.Sprintf(narrow, v1alpha1.OverloadShadow))
		askAll(t, n, path)
		if status := overload(t, n); status.Mode != v1alpha1.OverloadShadow {
			t.Errorf("mode %s", status.Mode)
		}
		testkit.Within(t, "it is counted who would have been turned away of 30 where 3 fit and 4 may wait", 20*time.Second, func() bool {
			return turnedAway(t, n) > 0
		})
	})

	t.Run("an operator lets everything through", func(t *testing.T) {
		n := openLane(t, l, fmt.Sprintf(narrow, v1alpha1.OverloadEnforce))
		operator := emergency.OnSocket(n.Socket())
		defer operator.Close()
		_, err := operator.Set(t.Context(), emergency.Passthrough("a test", time.Minute), false)
		check(t, err)
		askAll(t, n, path)
		if n := turnedAway(t, n); n != 0 {
			t.Errorf("%v were turned away", n)
		}
	})
}

// ask returns an answer's head.
func ask(ctx context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return response, response.Body.Close()
}

// askAll LISTs 30 times at once, and wants 30 answers.
func askAll(t *testing.T, n *gatetest.Lane, path string) {
	t.Helper()
	certificate := n.Certificate(lab.Admin)
	var asking sync.WaitGroup
	for range 30 {
		client := n.HTTP(true, certificate)
		asking.Go(func() {
			response, err := ask(t.Context(), client, n.URL+path)
			if err != nil {
				t.Error(err)
				return
			}
			if response.StatusCode != http.StatusOK {
				t.Errorf("status %s", response.Status)
			}
		})
	}
	asking.Wait()
}

// turnedAway is how many requests admission turned away, or would have.
func turnedAway(t *testing.T, n *gatetest.Lane) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	total := 0.0
	for _, family := range families {
		if family.GetName() == "seakeep_gate_admit_rejected_total" {
			for _, m := range family.GetMetric() {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}
