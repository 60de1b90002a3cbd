package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// everything is a relay that shares whatever may be shared. Limits would be what is tested instead.
const everything = `
defaultLimits: Disabled
relay: {rules: [{resources: ["*"]}]}
`

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until done returns nil.
func eventually(t *testing.T, within time.Duration, done func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); ; <-tick.C {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// counter is the sum of the gate's counters, or gauges, of that name and label values.
func counter(t *testing.T, lane *gatetest.Lane, name string, values ...string) float64 {
	t.Helper()
	families, err := lane.Registry.Gather()
	check(t, err)
	total := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if has(m, values) {
				total += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return total
}

func has(m *dto.Metric, values []string) bool {
	for _, want := range values {
		found := false
		for _, pair := range m.GetLabel() {
			found = found || pair.GetValue() == want
		}
		if !found {
			return false
		}
	}
	return true
}

const (
	answersTotal   = "seakeep_gate_relay_answers_total"
	readsTotal     = "seakeep_gate_relay_upstream_reads_total"
	forwardedTotal = "seakeep_gate_relay_forwarded_total"
	eventsTotal    = "seakeep_gate_relay_watch_events_received_total"
	memoryBytes    = "seakeep_gate_relay_memory_bytes"
	deliveredTotal = "seakeep_gate_relay_watch_events_delivered_total"
)

// highest is the highest of what it was raised to.
type highest struct{ v atomic.Uint64 }

func (h *highest) raise(to uint64) {
	for {
		now := h.v.Load()
		if now >= to || h.v.CompareAndSwap(now, to) {
			return
		}
	}
}

func (h *highest) get() uint64 { return h.v.Load() }

// version parses a resource version; they are ordered within one resource (KEP-5504).
func version(t testing.TB, text string) uint64 {
	t.Helper()
	var v uint64
	if _, err := fmt.Sscan(text, &v); err != nil {
		t.Errorf("resource version %q: %v", text, err)
	}
	return v
}

// encoded is a configuration whose clients ask for protobuf or for JSON.
func encoded(c *rest.Config, protobuf bool) *rest.Config {
	c = rest.CopyConfig(c)
	c.ContentType, c.AcceptContentTypes = "application/json", "application/json"
	if protobuf {
		c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	}
	return c
}

func namespace(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	check(t, err)
	// A controller makes one ConfigMap in each, in its own time.
	eventually(t, 30*time.Second, func() error {
		_, err := client.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
}

// allow gives a user rights on ConfigMaps, in the namespaces or, without any, everywhere.
func allow(t *testing.T, client kubernetes.Interface, user string, namespaces ...string) {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "differential"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}},
	}}
	if _, err := client.RbacV1().ClusterRoles().Get(t.Context(), role.Name, metav1.GetOptions{}); err != nil {
		_, err = client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
		check(t, err)
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	for _, ns := range namespaces {
		_, err := client.RbacV1().RoleBindings(ns).Create(t.Context(),
			&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
		check(t, err)
	}
	if len(namespaces) == 0 {
		_, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(),
			&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
		check(t, err)
	}
}

// awaitRights waits until the API server knows of the last right given: it reads them as informers do.
func awaitRights(t *testing.T, client kubernetes.Interface, user string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User:               user,
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "configmaps", Version: "v1"},
			},
		}, metav1.CreateOptions{})
		if err == nil && !review.Status.Allowed {
			err = fmt.Errorf("%s has no rights yet", user)
		}
		return err
	})
}

// printed is an object list as text that two equal lists share, whatever they came encoded as.
func printed(t testing.TB, items []corev1.ConfigMap) string {
	t.Helper()
	var b bytes.Buffer
	for i := range items {
		item := items[i].DeepCopy()
		item.TypeMeta = metav1.TypeMeta{} // in events, not in lists
		data, err := json.Marshal(item)
		check(t, err)
		b.Write(data)
		b.WriteByte('\n')
	}
	return b.String()
}

// lines are connections that a test cuts itself.
type lines struct {
	mu   sync.Mutex
	open []net.Conn
}

func (l *lines) of(c *rest.Config) *rest.Config {
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.open = append(l.open, conn)
		}
		return conn, err
	}
	return c
}

func (l *lines) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.open {
		_ = conn.Close()
	}
}

// the users of the tests.
func userOf(i int) lab.Identity { return lab.User(fmt.Sprintf("client-%d", i)) }
