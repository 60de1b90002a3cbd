package transparency_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/lab"
)

// world is what the traffic files speak of, made directly at the API server, once for each lab. It is prepared after the
// gate is open, so that its own connections are gone before the gate's are looked for.
type world struct {
	client *kubernetes.Clientset
	token  string // of a service account that may do everything
	vars   map[string]string
}

const (
	readNamespace  = "transparency"
	largeNamespace = "transparency-large"
	account        = "everything"
	starved        = "starved"
)

// sharing is what makes the gate share whatever may be shared, when the environment asks for it: what is true of a gate
// that forwards everything must be true of one that does not.
func sharing() string {
	if os.Getenv("SEAKEEP_TEST_SHARE_ALL") == "" {
		return ""
	}
	return "relay: {rules: [{resources: [\"*\"]}]}\n"
}

func prepare(t *testing.T, l *lab.Lab) *world {
	t.Helper()
	client := directly(t, l.RESTConfig(lab.Masters))
	w := &world{client: client, vars: map[string]string{"ns": readNamespace, "large": largeNamespace}}
	w.namespace(t, readNamespace)
	w.namespace(t, largeNamespace)
	core := client.CoreV1()
	for i := range 7 {
		_, err := core.ConfigMaps(readNamespace).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("item-%d", i), Labels: map[string]string{"app": "item"}},
			Data:       map[string]string{"value": fmt.Sprint(i), "text": "naïve ☃ \u2028 <&> \"quoted\""},
		}, metav1.CreateOptions{})
		made(t, err)
	}
	for i := range 5 {
		_, err := core.ConfigMaps(largeNamespace).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i)},
			Data:       map[string]string{"text": strings.Repeat(fmt.Sprintf("line %d of something long\n", i), 2400)},
		}, metav1.CreateOptions{})
		made(t, err)
	}
	_, err := core.ServiceAccounts(readNamespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{})
	made(t, err)
	_, err = client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "transparency"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: readNamespace, Name: account},
			{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: starved},
		},
	}, metav1.CreateOptions{})
	made(t, err)
	token, err := core.ServiceAccounts(readNamespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(t, err)
	w.token = token.Status.Token
	w.starve(t)
	pods, err := core.Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=Running"})
	check(t, err)
	if len(pods.Items) == 0 {
		t.Fatal("the lab has no running pod")
	}
	w.protect(t, pods.Items[0].Namespace)
	w.vars["podns"], w.vars["pod"] = pods.Items[0].Namespace, pods.Items[0].Name
	return w
}

// directly is a client whose connections are cut when the test ends, so that none looks like one the gate left behind.
func directly(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	var mu sync.Mutex
	var open []net.Conn
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			open = append(open, conn)
		}
		return conn, err
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range open {
			_ = conn.Close()
		}
	})
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	return client
}

// starve gives one user a priority level with a single seat and no queue. While hold holds it, the API server's own
// priority and fairness turns every request of that user away.
func (w *world) starve(t *testing.T) {
	t.Helper()
	none := int32(0)
	_, err := w.client.FlowcontrolV1().PriorityLevelConfigurations().Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: starved},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &none,
				BorrowingLimitPercent:    &none,
				LimitResponse:            flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		},
	}, metav1.CreateOptions{})
	made(t, err)
	all := []string{flowcontrolv1.ResourceAll}
	_, err = w.client.FlowcontrolV1().FlowSchemas().Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: starved},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: starved},
			MatchingPrecedence:         2,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: starved}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, Namespaces: all, ClusterScope: true}},
			}},
		},
	}, metav1.CreateOptions{})
	made(t, err)
}

// hold takes the starved user's one seat with an upload that does not end, until the test does.
func (w *world) hold(t *testing.T, l *lab.Lab) {
	t.Helper()
	config := l.RESTConfig(lab.Masters)
	config.Impersonate.UserName = starved
	client := directly(t, config)
	until, over := context.WithCancel(context.Background())
	var holding sync.WaitGroup
	t.Cleanup(holding.Wait)
	t.Cleanup(over)
	holding.Go(func() {
		for until.Err() == nil { // the seat may still be another's, and the API server takes it back after a minute
			body, feed := io.Pipe()
			stop := context.AfterFunc(until, func() { _ = feed.Close() })
			// It fails in the end, for want of an object.
			_ = client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces", readNamespace, "configmaps").Param("dryRun", "All").
				SetHeader("Content-Type", "application/json").MaxRetries(0).Body(body).Do(context.WithoutCancel(until)).Error()
			stop()
		}
	})
	within(t, "the API server turns the user away", func() bool {
		return apierrors.IsTooManyRequests(client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces").MaxRetries(0).Do(t.Context()).Error())
	})
}

// protect lets no pod of the namespace be evicted, and waits until the controller has said so.
func (w *world) protect(t *testing.T, namespace string) {
	t.Helper()
	all := intstr.FromString("100%")
	budgets := w.client.PolicyV1().PodDisruptionBudgets(namespace)
	_, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "nobody-goes"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &all, Selector: &metav1.LabelSelector{}},
	}, metav1.CreateOptions{})
	made(t, err)
	within(t, "the budget is in force", func() bool {
		budget, err := budgets.Get(t.Context(), "nobody-goes", metav1.GetOptions{})
		return err == nil && budget.Status.ObservedGeneration == budget.Generation && budget.Status.ExpectedPods > 0
	})
}

// namespace makes a namespace and waits for what the controllers put there.
func (w *world) namespace(t *testing.T, name string) {
	t.Helper()
	_, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	made(t, err)
	within(t, "the namespace has its root certificate and account", func() bool {
		_, missing := w.client.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		_, none := w.client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return missing == nil && none == nil
	})
}

// made is for what another test on the same lab may have made.
func made(t *testing.T, err error) {
	t.Helper()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}
