package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/analysis"
)

// The component that is rolled out.
const (
	namespace = "telemetry"
	component = "agent"
	schema    = "telemetry-agent"
	// stableImage is what it runs before and after each change.
	stableImage = "agent:0"
)

// world is one cluster with what runs on it anyway.
type world struct {
	lab    *lab.Lab
	nodes  int
	client *kubernetes.Clientset
	dns    *lab.DNS
	stop   context.CancelFunc
	all    sync.WaitGroup
}

func newWorld(ctx context.Context, dir string, o lab.Options, writes, reads float64) (_ *world, err error) {
	o.Dir = dir
	l, err := lab.Up(ctx, o)
	if err != nil {
		return nil, err
	}
	w := &world{lab: l, nodes: o.Nodes, stop: func() {}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err := l.Populate(ctx); err != nil {
		return nil, err
	}
	if w.client, err = clientOf(l.RESTConfig(lab.Masters)); err != nil {
		return nil, err
	}
	if w.dns, err = l.StartDNS(ctx, lab.DNSOptions{Replicas: 2}); err != nil {
		return nil, err
	}
	// Somebody works on every cluster: percentiles need requests.
	user, err := clientOf(l.RESTConfig(lab.User("team", "system:masters")))
	if err != nil {
		return nil, err
	}
	// Of many objects: writers of one are in each other's way, and the least delay of a webhook adds up in their retries.
	for n := range worked {
		if _, err := user.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: workOf(n)}}, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.every(working, writes, func(ctx context.Context, n int) {
		patch := fmt.Sprintf(`{"data":{"n":"%d"}}`, n)
		_, _ = user.CoreV1().ConfigMaps("default").Patch(ctx, workOf(n), "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
	})
	w.every(working, reads, func(ctx context.Context, n int) {
		_, _ = user.CoreV1().Nodes().Get(ctx, lab.NodeName(n%3), metav1.GetOptions{})
	})
	return w, nil
}

// worked is how many objects are written in turn.
const worked = 100

func workOf(n int) string { return fmt.Sprint("work-", n%worked) }

func clientOf(config *rest.Config) (*kubernetes.Clientset, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// every does something so often, each time in a goroutine of its own, at most 20 at a time, until the context ends.
func (w *world) every(ctx context.Context, perSecond float64, do func(context.Context, int)) {
	w.all.Go(func() {
		var inner sync.WaitGroup
		defer inner.Wait()
		slots := make(chan struct{}, 20)
		tick := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case slots <- struct{}{}:
			default:
				continue // 20 hang already
			}
			inner.Go(func() {
				defer func() { <-slots }()
				within, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				do(within, n)
			})
		}
	})
}

func (w *world) close() {
	w.stop()
	w.all.Wait()
	_ = w.lab.Down(context.Background())
}

func (w *world) cluster(name string) (analysis.Cluster, error) {
	config := w.lab.RESTConfig(lab.Masters)
	servers, err := analysis.ServersOf(config, strings.TrimPrefix(w.lab.APIServerURL(0), "https://"))
	return analysis.Cluster{Name: name, Config: config, Servers: servers, DNS: w.dns.ClusterAddrs}, err
}

// labRig is a cluster for the change and one without it.
type labRig struct {
	big, small *world
	say        run.Say
	random     *rand.Rand
}

func newLabRig(ctx context.Context, dir string, seed uint64, say run.Say) (_ *labRig, err error) {
	r := &labRig{say: say, random: rand.New(rand.NewPCG(seed, 1))}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	say("starting the cluster for the change, 12 nodes and 500 pods")
	// Without a bound one LIST loop has the machine, and every process on it, and not the API server, is slow.
	if r.big, err = newWorld(ctx, filepath.Join(dir, "big"), lab.Options{Nodes: 12, Pods: 500, Seed: int64(seed), Bounds: map[string]lab.Bounds{lab.KindAPIServer: {CPU: 0.9}}}, 40, 60); err != nil {
		return nil, fmt.Errorf("starting the cluster for the change: %w", err)
	}
	say("starting the one without it, 3 nodes and 10 pods")
	if r.small, err = newWorld(ctx, filepath.Join(dir, "small"), lab.Options{Nodes: 3, Pods: 10, Seed: int64(seed)}, 20, 30); err != nil {
		return nil, fmt.Errorf("starting the cluster without the change: %w", err)
	}
	for _, w := range []*world{r.big, r.small} {
		if err := w.install(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *labRig) close() {
	for _, w := range []*world{r.big, r.small} {
		if w != nil {
			w.close()
		}
	}
}

// install brings the component in its first version, with an account and a flow schema of its own.
func (w *world) install(ctx context.Context) error {
	c := w.client
	labels := map[string]string{"app": component}
	steps := []func() error{
		func() error {
			_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: component}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: schema}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods", "nodes", "configmaps"}, Verbs: []string{"get", "list", "watch"}}}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: schema}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: schema},
				Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: component}},
			}, metav1.CreateOptions{})
			return err
		},
		func() error {
			shares := int32(30)
			_, err := c.FlowcontrolV1().PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: schema},
				Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: &shares, LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 16, HandSize: 4, QueueLengthLimit: 50}},
				}},
			}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.FlowcontrolV1().FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
				ObjectMeta: metav1.ObjectMeta{Name: schema},
				Spec: flowcontrolv1.FlowSchemaSpec{
					MatchingPrecedence: 100, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: schema},
					DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
					Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
						Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: component}}},
						ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
					}},
				},
			}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{
				ObjectMeta: metav1.ObjectMeta{Name: component},
				Spec: appsv1.DaemonSetSpec{
					Selector: &metav1.LabelSelector{MatchLabels: labels}, UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
						ServiceAccountName: component, Containers: []corev1.Container{{Name: component, Image: stableImage}},
					}},
				},
			}, metav1.CreateOptions{})
			return err
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("installing the component: %w", err)
		}
	}
	return run.Until(ctx, time.Minute, func(ctx context.Context) error {
		if pods, err := w.pods(ctx); err != nil || len(pods) != w.nodes || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !isReady(p) }) {
			return fmt.Errorf("%d pods of the component are there: %w", len(pods), err)
		}
		return nil
	})
}

func (r *labRig) pods(ctx context.Context) ([]corev1.Pod, error) { return r.big.pods(ctx) }

func (w *world) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := w.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + component})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), nil
}

func isReady(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// token is one of the component's own.
func (r *labRig) token(ctx context.Context) (string, error) {
	hour := int64(3600)
	request, err := r.big.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, component, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// agent is a client with the component's own token.
func (r *labRig) agent(ctx context.Context) (*kubernetes.Clientset, error) {
	token, err := r.token(ctx)
	if err != nil {
		return nil, err
	}
	config := rest.AnonymousClientConfig(r.big.lab.RESTConfig(lab.Masters))
	config.BearerToken = token
	return clientOf(config)
}

// step puts a new version of the component on some nodes, and returns them with the revisions.
func (r *labRig) step(ctx context.Context, image string, nodes int) (exposed []string, update, stable string, err error) {
	pods, err := r.pods(ctx)
	if err != nil {
		return nil, "", "", err
	}
	stable = pods[0].Labels[appsv1.ControllerRevisionHashLabelKey]
	if err := r.template(ctx, image); err != nil {
		return nil, "", "", err
	}
	r.random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	for _, p := range pods[:nodes] {
		exposed = append(exposed, p.Spec.NodeName)
		if err := r.big.client.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}); err != nil {
			return nil, "", "", err
		}
	}
	err = run.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		pods, err := r.pods(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, p := range pods {
			if h := p.Labels[appsv1.ControllerRevisionHashLabelKey]; h != stable {
				update = h
				n++
			}
		}
		if n != nodes {
			return fmt.Errorf("%d of %d nodes run the change", n, nodes)
		}
		return nil
	})
	return exposed, update, stable, err
}

func (r *labRig) template(ctx context.Context, image string) error {
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"image":%q}]}}}}`, component, image)
	_, err := r.big.client.AppsV1().DaemonSets(namespace).Patch(ctx, component, "application/strategic-merge-patch+json", []byte(patch), metav1.PatchOptions{})
	return err
}

// back puts the old template back, deletes the pods of a revision, and waits until none is left.
func (r *labRig) back(ctx context.Context, update string) error {
	if err := r.template(ctx, stableImage); err != nil {
		return err
	}
	return run.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		pods, err := r.pods(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, p := range pods {
			if p.Labels[appsv1.ControllerRevisionHashLabelKey] == update {
				left++
				_ = r.big.client.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
			}
		}
		if left > 0 || len(pods) != 12 || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !isReady(p) }) {
			return fmt.Errorf("%d pods of the change are left, %d pods", left, len(pods))
		}
		return nil
	})
}
