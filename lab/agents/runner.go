package agents

import (
	"context"
	"crypto/x509"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// tokenLifetime is what the kubelet asks for; a new token is fetched when 80 % of it is over, as the kubelet does.
const tokenLifetime = time.Hour

// Config is what a runner needs.
type Config struct {
	// Client watches DaemonSets and their pods and fetches tokens, as the nodes' kubelets would.
	Client kubernetes.Interface
	Server string // URL the agents talk to
	Roots  *x509.CertPool
	Limit  int // most agents at a time, > 0
	Seed   int64
	Log    *slog.Logger
	// Metrics are this runner's own.
	Metrics *Metrics
	// Machines are the nodes' machines; nil: all of them are on.
	Machines *Machines
}

// runner keeps one agent for each pod that should have one.
type runner struct {
	Config
	group sync.WaitGroup // agents and watches

	mu      sync.Mutex
	agents  map[types.UID]context.CancelFunc // by pod
	watched map[types.UID]*podWatch          // by DaemonSet
	ended   bool
}

// podWatch is the watch of one DaemonSet's pods.
type podWatch struct {
	cancel  context.CancelFunc
	pods    map[types.UID]bool // that exist
	deleted bool               // the DaemonSet is gone; the watch goes with the last pod
}

// Run runs agents until the context ends, and returns when all of them have ended.
func Run(ctx context.Context, c Config) error {
	if c.Limit <= 0 {
		return fmt.Errorf("limit of agents must be > 0, got %d", c.Limit)
	}
	if c.Machines == nil {
		c.Machines = NewMachines()
	}
	r := &runner{Config: c, agents: map[types.UID]context.CancelFunc{}, watched: map[types.UID]*podWatch{}}
	factory := informers.NewSharedInformerFactory(c.Client, 0)
	informer := factory.Apps().V1().DaemonSets().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { r.daemonSet(ctx, obj) },
		UpdateFunc: func(_, obj any) { r.daemonSet(ctx, obj) },
		DeleteFunc: func(obj any) { r.daemonSetGone(obj) },
	})
	if err != nil {
		return fmt.Errorf("watching DaemonSets: %w", err)
	}
	factory.StartWithContext(ctx)
	<-ctx.Done()
	factory.Shutdown()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.group.Wait()
	return nil
}

// daemonSet begins to watch a DaemonSet's pods once its template describes an agent. Only those pods are watched: all
// pods of the cluster would be a load of the kind that is to be measured. The watch stays until the last pod is gone,
// which may be after the DaemonSet.
func (r *runner) daemonSet(ctx context.Context, obj any) {
	ds, ok := obj.(*appsv1.DaemonSet)
	if !ok {
		return
	}
	if _, isAgent := ds.Spec.Template.Annotations[AnnotationVerb]; !isAgent {
		return
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		r.Log.Warn("DaemonSet has a selector that cannot be used", "daemonSet", ds.Namespace+"/"+ds.Name, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.watched[ds.UID] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	watch := &podWatch{cancel: cancel, pods: map[types.UID]bool{}}
	r.watched[ds.UID] = watch
	factory := informers.NewSharedInformerFactoryWithOptions(r.Client, 0, informers.WithNamespace(ds.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = selector.String()
			o.FieldSelector = fields.OneTermNotEqualSelector("spec.nodeName", "").String()
		}))
	name := ds.Name
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { r.pod(ctx, watch, name, obj) },
		UpdateFunc: func(_, obj any) { r.pod(ctx, watch, name, obj) },
		DeleteFunc: func(obj any) { r.podGone(watch, obj) },
	})
	if err != nil {
		cancel()
		r.Log.Warn("Pods of DaemonSet are not watched", "daemonSet", ds.Namespace+"/"+ds.Name, "error", err)
		return
	}
	factory.StartWithContext(ctx)
	r.group.Go(func() {
		<-ctx.Done()
		factory.Shutdown()
	})
}

// daemonSetGone lets the watch of its pods end with the last of them.
func (r *runner) daemonSetGone(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	ds, ok := obj.(*appsv1.DaemonSet)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	watch := r.watched[ds.UID]
	if watch == nil {
		return
	}
	delete(r.watched, ds.UID)
	watch.deleted = true
	watch.endIfLast()
}

// podGone ends a deleted pod's agent.
func (r *runner) podGone(watch *podWatch, obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	r.end(pod.UID)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(watch.pods, pod.UID)
	watch.endIfLast()
}

// endIfLast must be called with the runner's mu held.
func (w *podWatch) endIfLast() {
	if w.deleted && len(w.pods) == 0 {
		w.cancel()
	}
}

// pod starts the agent of a pod that runs and ends that of one which no longer should.
func (r *runner) pod(ctx context.Context, watch *podWatch, daemonSet string, obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	r.mu.Lock()
	watch.pods[pod.UID] = true
	r.mu.Unlock()
	if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil {
		r.end(pod.UID)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.agents[pod.UID] != nil {
		return
	}
	behaviour, ok, err := ParseBehaviour(pod.Annotations)
	if err != nil {
		r.Metrics.refused.WithLabelValues(reasonBehaviour).Inc()
		r.Log.Warn("Pod's agent behaviour is wrong", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		return
	}
	if !ok {
		return
	}
	if len(r.agents) >= r.Limit {
		r.Metrics.refused.WithLabelValues(reasonLimit).Inc()
		r.Log.Warn("Pod gets no agent", "pod", pod.Namespace+"/"+pod.Name, "reason", "limit of agents reached", "limit", r.Limit)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r.agents[pod.UID] = cancel
	a := r.newAgent(daemonSet, pod, behaviour)
	r.Metrics.running.Inc()
	r.group.Go(func() {
		defer r.Metrics.running.Dec()
		r.Machines.run(ctx, pod.Spec.NodeName, a.run)
	})
}

// end ends a pod's agent. The requests it has open are cut, as a process's end cuts them.
func (r *runner) end(pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cancel := r.agents[pod]; cancel != nil {
		cancel()
		delete(r.agents, pod)
	}
}

func (r *runner) newAgent(daemonSet string, pod *corev1.Pod, behaviour Behaviour) *agent {
	userAgent := behaviour.UserAgent
	if userAgent == "" {
		image := ""
		if len(pod.Spec.Containers) > 0 {
			image = pod.Spec.Containers[0].Image
		}
		userAgent = defaultUserAgent(daemonSet, image)
	}
	// The same lab with the same seed has the same jitter on the same node.
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(pod.Namespace + "/" + daemonSet + "/" + pod.Spec.NodeName))
	return &agent{
		behaviour: behaviour,
		url:       r.Server + behaviour.path(pod.Namespace, pod.Name, pod.Spec.NodeName),
		header:    behaviour.header(userAgent),
		token:     r.podToken(pod),
		client:    &http.Client{Transport: newTransport(r.Roots, addressOf(r.Server, pod.Spec.NodeName))},
		metrics:   r.Metrics,
		random:    rand.New(rand.NewPCG(uint64(r.Seed), hash.Sum64())),
	}
}

// podToken returns a source of tokens of the pod's ServiceAccount, bound to the pod as the kubelet binds them.
func (r *runner) podToken(pod *corev1.Pod) tokens {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	namespace, name, uid := pod.Namespace, pod.Name, pod.UID
	var mu sync.Mutex
	var token string
	var renew time.Time
	return func(ctx context.Context, fresh bool) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if token != "" && !fresh && time.Now().Before(renew) {
			return token, nil
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: new(int64(tokenLifetime.Seconds())),
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: uid},
		}}
		answer, err := r.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		token = answer.Status.Token
		renew = time.Now().Add(time.Until(answer.Status.ExpirationTimestamp.Time) / 10 * 8)
		return token, nil
	}
}
