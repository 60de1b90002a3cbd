package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/analysis"
)

// What is rolled out is the agent of the drills' fixtures.
const (
	namespace = "telemetry"
	agent     = fixtures.Agent
	schema    = namespace + "-" + agent
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

func newWorld(ctx context.Context, dir string, o lab.Options, replicas int, writes, reads float64) (_ *world, err error) {
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
	if w.dns, err = l.StartDNS(ctx, lab.DNSOptions{Replicas: replicas}); err != nil {
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
	seed       uint64
}

// newLabRig makes the labs with what d, any of the trials, says of its target and fixtures; they are the same in all. Their API server
// is bounded: without that, one LIST loop has the machine, and every process on it, and not the API server, is slow.
func newLabRig(ctx context.Context, dir string, d *v1alpha1.Drill, o options, say run.Say) (_ *labRig, err error) {
	r := &labRig{say: say, seed: o.seed}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	self, err := filepath.Abs(o.seakeep)
	if err != nil {
		return nil, err
	}
	say(fmt.Sprintf("starting the cluster for the change, %d nodes and %d pods", d.Parameters.Nodes, *d.Parameters.Pods))
	big := lab.Options{Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Seed: int64(o.seed), Self: self, Bounds: map[string]lab.Bounds{}}
	for _, b := range d.Target.Bounds {
		big.Bounds[b.Component] = lab.Bounds{CPU: b.CPU}
	}
	if r.big, err = newWorld(ctx, filepath.Join(dir, "big"), big, d.Target.DNSReplicas, 40, 60); err != nil {
		return nil, fmt.Errorf("starting the cluster for the change: %w", err)
	}
	say("starting the one without it, 3 nodes and 10 pods")
	if r.small, err = newWorld(ctx, filepath.Join(dir, "small"), lab.Options{Nodes: 3, Pods: 10, Seed: int64(o.seed)}, d.Target.DNSReplicas, 20, 30); err != nil {
		return nil, fmt.Errorf("starting the cluster without the change: %w", err)
	}
	for _, w := range []*world{r.big, r.small} {
		if err := w.install(ctx, d); err != nil {
			return nil, err
		}
	}
	if err := r.big.lab.StartAgents(ctx); err != nil {
		return nil, fmt.Errorf("starting what asks for the change: %w", err)
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

// install makes the drills' fixtures, with the agent in its first version, and a flow schema of the agent's own.
func (w *world) install(ctx context.Context, d *v1alpha1.Drill) error {
	if err := fixtures.Prepare(ctx, d, drilled{world: w}); err != nil {
		return err
	}
	for n := range 3 {
		label := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"yes"}}}`, trialLabel)
		if _, err := w.client.CoreV1().Nodes().Patch(ctx, lab.NodeName(n), types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("choosing the nodes of rollouts: %w", err)
		}
	}
	shares := int32(30)
	_, err := w.client.FlowcontrolV1().PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: schema},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: &shares, LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 16, HandSize: 4, QueueLengthLimit: 50}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making the agent's priority level: %w", err)
	}
	_, err = w.client.FlowcontrolV1().FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: schema},
		Spec: flowcontrolv1.FlowSchemaSpec{
			MatchingPrecedence: 100, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: schema},
			DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects:      []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: agent}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making the agent's flow schema: %w", err)
	}
	return nil
}

func (r *labRig) pods(ctx context.Context) ([]corev1.Pod, error) { return r.big.pods(ctx) }

func (w *world) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := w.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + agent})
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
	request, err := r.big.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, agent, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// revision is which template a pod was made of.
func revision(p corev1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

// changed are the nodes that run another revision than this one, and which.
func (r *labRig) changed(ctx context.Context, stable string) (exposed []string, update string, err error) {
	pods, err := r.pods(ctx)
	for _, p := range pods {
		if h := revision(p); h != stable {
			update = h
			exposed = append(exposed, p.Spec.NodeName)
		}
	}
	return exposed, update, err
}

// state is what the agent runs while no change is under way.
type state struct {
	template corev1.PodTemplateSpec
	revision string
}

func (w *world) state(ctx context.Context) (s state, err error) {
	set, err := w.client.AppsV1().DaemonSets(namespace).Get(ctx, agent, metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	pods, err := w.pods(ctx)
	if err != nil {
		return s, err
	}
	if len(pods) == 0 {
		return s, errors.New("the agent has no pod")
	}
	return state{template: set.Spec.Template, revision: revision(pods[0])}, nil
}

// back puts the template from before back, whoever changed it, deletes the pods of all other revisions, and waits until none is left.
func (w *world) back(ctx context.Context, before state) error {
	sets := w.client.AppsV1().DaemonSets(namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		set, err := sets.Get(ctx, agent, metav1.GetOptions{})
		if err != nil {
			return err
		}
		set.Spec.Template = before.template
		_, err = sets.Update(ctx, set, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return run.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		pods, err := w.pods(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, p := range pods {
			if revision(p) != before.revision {
				left++
				_ = w.client.CoreV1().Pods(namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
			}
		}
		if left > 0 || len(pods) != w.nodes || slices.ContainsFunc(pods, func(p corev1.Pod) bool { return !isReady(p) }) {
			return fmt.Errorf("%d pods of the change are left, %d pods", left, len(pods))
		}
		return nil
	})
}
