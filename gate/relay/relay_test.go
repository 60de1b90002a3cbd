package relay_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// everything is a relay that shares whatever may be shared.
const everything = `
defaultLimits: Disabled
relay: {rules: [{resources: ["*"]}]}
`

func cluster(t *testing.T) *lab.Lab {
	return lab.Start(t, lab.Options{Nodes: 3, Pods: 30})
}

// counter is the value of one of the gate's counters or gauges.
func counter(t *testing.T, lane *gatetest.Lane, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := lane.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if matches(m, labels) {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}

func matches(m *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, pair := range m.GetLabel() {
		if want, ok := labels[pair.GetName()]; ok && want == pair.GetValue() {
			found++
		}
	}
	return found == len(labels)
}

const (
	readsTotal     = "seakeep_gate_relay_upstream_reads_total"
	answersTotal   = "seakeep_gate_relay_answers_total"
	forwardedTotal = "seakeep_gate_relay_forwarded_total"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// TestReadYourWrites is what sharing must not break: whoever has written reads it, however many others read at the same
// time and whatever read is under way.
func TestReadYourWrites(t *testing.T) {
	lane := gatetest.Open(t, cluster(t), gatetest.Options{More: everything})
	var writing sync.WaitGroup
	for i := range 20 {
		client := lane.Client(lab.Admin)
		writing.Go(func() {
			for n := range 10 {
				name := fmt.Sprintf("written-%d-%d", i, n)
				if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap(name), metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
				list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if !names(list)[name] {
					t.Errorf("%s was written and is not in a LIST of version %s that was asked for afterwards", name, list.ResourceVersion)
				}
			}
		})
	}
	writing.Wait()
	reads, answers := counter(t, lane, readsTotal, nil), counter(t, lane, answersTotal, nil)
	t.Logf("%v answers of %v reads", answers, reads)
	if answers != 200 || reads >= answers {
		t.Errorf("want 200 answers of fewer reads, got %v of %v", answers, reads)
	}
}

func names(list *corev1.ConfigMapList) map[string]bool {
	all := map[string]bool{}
	for i := range list.Items {
		all[list.Items[i].Name] = true
	}
	return all
}

// TestNothingIsSharedWithoutARight: a caller without the right, or without a name, is answered by the API server itself.
func TestNothingIsSharedWithoutARight(t *testing.T) {
	lane := gatetest.Open(t, cluster(t), gatetest.Options{More: everything})
	list := func(client *kubernetes.Clientset) error {
		_, err := client.CoreV1().ConfigMaps("default").List(context.WithoutCancel(t.Context()), metav1.ListOptions{})
		return err
	}
	if err := list(lane.Client(lab.Admin)); err != nil {
		t.Fatal(err)
	}
	if err := list(lane.Client(lab.User("nobody-in-particular"))); !apierrors.IsForbidden(err) {
		t.Errorf("a user without rights: want 403, got %v", err)
	}
	anonymous := lane.HTTP(true)
	response, err := anonymous.Get(lane.URL + "/api/v1/namespaces/default/configmaps")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusUnauthorized {
		t.Errorf("nobody: want 401 or 403, got %d", response.StatusCode)
	}
	for _, why := range []string{"denied", "unauthenticated"} {
		if counter(t, lane, forwardedTotal, map[string]string{"reason": why}) == 0 {
			t.Errorf("no request was forwarded with reason %s", why)
		}
	}
	if reads := counter(t, lane, readsTotal, nil); reads != 1 {
		t.Errorf("want the one read of the one who may, got %v", reads)
	}
}

// TestSecretsAreNotMeantByAStar: the rule of the test names everything.
func TestSecretsAreNotMeantByAStar(t *testing.T) {
	lane := gatetest.Open(t, cluster(t), gatetest.Options{More: everything})
	if _, err := lane.Client(lab.Admin).CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if reads := counter(t, lane, readsTotal, nil); reads != 0 {
		t.Errorf("secrets were read as the gate's own identity %v times", reads)
	}
}

// TestInformers: what client-go's reflectors make of shared lists and watches is what they make of the API server's.
func TestInformers(t *testing.T) {
	lane := gatetest.Open(t, cluster(t), gatetest.Options{More: everything})
	const count = 10
	stop := make(chan struct{})
	informers := make([]cache.SharedIndexInformer, 0, count)
	var running sync.WaitGroup
	for range count {
		factory := kubeinformers.NewSharedInformerFactoryWithOptions(lane.Client(lab.Admin), 0, kubeinformers.WithNamespace("default"))
		informer := factory.Core().V1().ConfigMaps().Informer()
		informers = append(informers, informer)
		running.Go(func() { informer.Run(stop) })
	}
	defer running.Wait()
	defer close(stop)
	if !cache.WaitForCacheSync(t.Context().Done(), synced(informers)...) {
		t.Fatal("the informers do not sync")
	}
	direct := gatetest.Clientset(t, lane.Direct(lab.Admin)).CoreV1().ConfigMaps("default")
	for i := range 50 {
		name := fmt.Sprintf("watched-%d", i%20)
		switch i % 5 {
		case 4:
			if err := direct.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
		default:
			if _, err := direct.Create(t.Context(), configMap(name), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
	}
	want, err := direct.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, informer := range informers {
		eventually(t, fmt.Sprintf("informer %d has what the API server has", i), func() bool {
			got := informer.GetStore().List()
			versions := map[string]string{}
			for _, o := range got {
				versions[o.(*corev1.ConfigMap).Name] = o.(*corev1.ConfigMap).ResourceVersion
			}
			for i := range want.Items {
				if versions[want.Items[i].Name] != want.Items[i].ResourceVersion {
					return false
				}
			}
			return len(got) == len(want.Items)
		})
	}
	if reads, answers := counter(t, lane, readsTotal, nil), counter(t, lane, answersTotal, nil); answers < count || reads > count/2 {
		t.Errorf("want the initial events of %d informers from few reads, got %v answers of %v reads", count, answers, reads)
	}
	if forwarded := counter(t, lane, forwardedTotal, nil); forwarded != 0 {
		t.Errorf("%v requests were forwarded", forwarded)
	}
}

func synced(informers []cache.SharedIndexInformer) []cache.InformerSynced {
	all := make([]cache.InformerSynced, 0, len(informers))
	for _, i := range informers {
		all = append(all, i.HasSynced)
	}
	return all
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	testkit.Within(t, what, 30*time.Second, is)
}

// TestSurvives: a gate that starts during an outage answers what it knew from disk, to whom it was granted before, and a
// client that starts then finds the world and not nothing.
func TestSurvives(t *testing.T) {
	l := cluster(t)
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{More: `
relay:
  rules: [{resources: [services]}]
  survive: {resources: [services], after: 1s}
`})
	lane := gatetest.Serve(t, l, file)
	services := func(lane *gatetest.Lane, id lab.Identity) (*corev1.ServiceList, error) {
		return lane.Client(id).CoreV1().Services("").List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	}
	before, err := services(lane, lab.Admin)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the services are kept", func() bool { return counter(t, lane, "seakeep_gate_relay_survive_bytes", nil) > 0 })
	lane.Stop()
	server, ok := l.Process(lab.KindAPIServer)
	if !ok {
		t.Fatal("the lab has no API server")
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { start(t, []*lab.Process{server}) }) // other tests have the same lab
	again := gatetest.Serve(t, l, file)
	var during *corev1.ServiceList
	eventually(t, "the services are served without an API server", func() bool {
		during, err = services(again, lab.Admin)
		return err == nil
	})
	if len(during.Items) != len(before.Items) || during.Items[0].UID != before.Items[0].UID {
		t.Errorf("want the %d services of before, got %d", len(before.Items), len(during.Items))
	}
	response, err := again.HTTP(true, again.Certificate(lab.User("nobody-in-particular"))).Get(again.URL + "/api/v1/services?resourceVersion=0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a user who was never granted it: want 503, got %d", response.StatusCode)
	}
}

// TestFlowSchema: the manifest that gives the gate's reads a place of their own is taken by the API server and does so.
func TestFlowSchema(t *testing.T) {
	lane := gatetest.Open(t, cluster(t), gatetest.Options{More: everything})
	data, err := os.ReadFile("../../deploy/relay/flowschema.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var schema flowcontrolv1.FlowSchema
	if err := yaml.UnmarshalStrict(data, &schema); err != nil {
		t.Fatal(err)
	}
	made, err := gatetest.Clientset(t, lane.Direct(lab.Admin)).FlowcontrolV1().FlowSchemas().Create(t.Context(), &schema, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client := lane.HTTP(true, lane.Certificate(lab.Admin))
	eventually(t, "reads for others are of the flow schema", func() bool {
		response, err := client.Get(lane.URL + "/api/v1/configmaps")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		return response.Header.Get("X-Kubernetes-Pf-Flowschema-Uid") == string(made.UID)
	})
}
