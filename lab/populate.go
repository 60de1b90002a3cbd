package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// maxNodes is how many /24 pod networks fit into 10.128.0.0/9.
	maxNodes = 1 << 15
	// deploymentsPerNamespace spreads the population: clients that watch one namespace should see a part of it.
	deploymentsPerNamespace = 5
	// maxReplicas of one Deployment; with more, its ReplicaSet's slow start and one worker decide the time.
	maxReplicas = 100
	// parallelCreates is the number of the lab's own requests under way.
	parallelCreates = 16
	// pollInterval is how often the lab looks whether what it waits for has come.
	pollInterval = 400 * time.Millisecond
)

// NodeName returns the name of node i, counted from 0.
func NodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

// deploymentPlan is one Deployment of the population and its Service, which share their name.
type deploymentPlan struct {
	name     types.NamespacedName
	replicas int
}

// plan spreads pods over Deployments and those over namespaces: app-0/web-0, app-0/web-1, …
func plan(pods int) []deploymentPlan {
	if pods == 0 {
		return nil
	}
	replicas := min(maxReplicas, max(1, pods/10))
	var plans []deploymentPlan
	for i := 0; pods > 0; i++ {
		n := min(replicas, pods)
		plans = append(plans, deploymentPlan{
			name:     types.NamespacedName{Namespace: "app-" + strconv.Itoa(i/deploymentsPerNamespace), Name: "web-" + strconv.Itoa(i)},
			replicas: n,
		})
		pods -= n
	}
	return plans
}

// Deployments names the Deployments of the population; each has a Service of the same name.
func (l *Lab) Deployments() []types.NamespacedName {
	plans := plan(l.options.Pods)
	names := make([]types.NamespacedName, len(plans))
	for i, p := range plans {
		names[i] = p.name
	}
	return names
}

// Populate creates the nodes, and the namespaces, Deployments and Services of the pods, and returns when all nodes are
// Ready and all pods run. A restored lab is only waited for.
func (l *Lab) Populate(ctx context.Context) error {
	began := time.Now()
	if !l.restored {
		l.options.Progress(fmt.Sprintf("Registering %d nodes", l.options.Nodes))
		if err := parallel(ctx, l.options.Nodes, l.createNode); err != nil {
			return fmt.Errorf("populating: %w", err)
		}
	}
	// Pods that find no node are tried again and again, with an event each time, so nodes come first.
	if err := l.awaitNodes(ctx); err != nil {
		return fmt.Errorf("populating: %w", err)
	}
	plans := plan(l.options.Pods)
	if !l.restored {
		l.options.Progress(fmt.Sprintf("Creating %d pods in %d Deployments", l.options.Pods, len(plans)))
		if err := parallel(ctx, (len(plans)+deploymentsPerNamespace-1)/deploymentsPerNamespace, l.createNamespace); err != nil {
			return fmt.Errorf("populating: %w", err)
		}
		if err := parallel(ctx, len(plans), func(ctx context.Context, i int) error { return l.createDeployment(ctx, i, plans[i]) }); err != nil {
			return fmt.Errorf("populating: %w", err)
		}
	}
	if err := l.awaitPods(ctx, len(plans)); err != nil {
		return fmt.Errorf("populating: %w", err)
	}
	l.supervisor.update(func(s *state) { s.Populated = true })
	l.options.Progress(fmt.Sprintf("%d nodes and %d pods are ready after %.1f s", l.options.Nodes, l.options.Pods, time.Since(began).Seconds()))
	return nil
}

// parallel calls f with 0 to n-1, and returns the errors of all.
func parallel(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := make(chan int)
	errs := make([]error, parallelCreates)
	var group sync.WaitGroup
	for w := range parallelCreates {
		group.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					errs[w] = err
					cancel()
					return
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// random returns the source of what is random about object i of a kind.
func (l *Lab) random(kind, i uint64) *rand.Rand {
	return rand.New(rand.NewPCG(uint64(l.options.Seed), kind<<32|i))
}

// createNode registers a node as a kubelet does: with its status.
func (l *Lab) createNode(ctx context.Context, i int) error {
	name := NodeName(i)
	zone := "zone-" + string(rune('a'+l.random(1, uint64(i)).IntN(3)))
	cidr := fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&0xff)
	podsPerNode := max(110, 2*l.options.Pods/max(1, l.options.Nodes))
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"), corev1.ResourcePods: *resource.NewQuantity(int64(podsPerNode), resource.DecimalSI),
	}
	now := metav1.Now()
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: status, Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name,
			Labels: map[string]string{
				corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
				corev1.LabelTopologyZone: zone, corev1.LabelTopologyRegion: "lab", corev1.LabelInstanceTypeStable: "lab.16xlarge",
			},
		},
		Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Conditions: []corev1.NodeCondition{
				condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory"),
				condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure"),
				condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID"),
				condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady"),
			},
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: name},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(l.kubeletPort)}},
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64", KubeletVersion: "v1.36.3",
				ContainerRuntimeVersion: "kwok://0.8.0", KernelVersion: "6.12.0", OSImage: "simulated",
			},
		},
	}
	_, err := l.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err := ignoreExists(err); err != nil {
		return fmt.Errorf("registering node %s: %w", name, err)
	}
	return nil
}

// createNamespace makes a namespace and waits for its default ServiceAccount, without which pods are refused.
func (l *Lab) createNamespace(ctx context.Context, i int) error {
	name := "app-" + strconv.Itoa(i)
	_, err := l.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err := ignoreExists(err); err != nil {
		return fmt.Errorf("creating namespace %s: %w", name, err)
	}
	return poll(ctx, func(ctx context.Context) (bool, error) {
		_, err := l.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
}

// createDeployment makes a Deployment and its Service.
func (l *Lab) createDeployment(ctx context.Context, i int, plan deploymentPlan) error {
	labels := map[string]string{"app.kubernetes.io/name": plan.name.Name}
	meta := metav1.ObjectMeta{Name: plan.name.Name, Namespace: plan.name.Namespace, Labels: labels}
	service := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: labels,
		Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}},
	}}
	if _, err := l.client.CoreV1().Services(meta.Namespace).Create(ctx, service, metav1.CreateOptions{}); ignoreExists(err) != nil {
		return fmt.Errorf("creating service %s: %w", plan.name, err)
	}
	deployment := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(plan.replicas)),
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: podTemplate(labels, l.random(2, uint64(i)), l.options.podFill()),
	}}
	if _, err := l.client.AppsV1().Deployments(meta.Namespace).Create(ctx, deployment, metav1.CreateOptions{}); ignoreExists(err) != nil {
		return fmt.Errorf("creating deployment %s: %w", plan.name, err)
	}
	return nil
}

// podTemplate is a web server as real clusters have them. Its size matters: what a LIST of pods costs is their bytes,
// about 8 KB each in JSON. Most of them are in one annotation, as service meshes and deploy tools leave them, because the
// API server tracks the ownership of each field at each write, and a population of many fields takes twice the time
// to come up.
func podTemplate(labels map[string]string, random *rand.Rand, fill int) corev1.PodTemplateSpec {
	environment := make([]corev1.EnvVar, 4)
	for i := range environment {
		environment[i] = corev1.EnvVar{Name: "SETTING_" + strconv.Itoa(i), Value: randomHex(random, 32)}
	}
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"deploy.example.com/rendered": randomHex(random, fill)}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/shop/web:1.27.3", Env: environment,
				Ports:     []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Resources: corev1.ResourceRequirements{Requests: requests},
			}},
		},
	}
}

// podFill is the length of that annotation.
func (o *Options) podFill() int {
	if o.PodBytes == 0 {
		return 4096
	}
	return max(16, o.PodBytes-podOverhead)
}

func randomHex(random *rand.Rand, n int) string {
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%016x", random.Uint64())
	}
	return b.String()
}

// awaitNodes waits until all nodes are Ready, hold a lease and take pods.
func (l *Lab) awaitNodes(ctx context.Context) error {
	var ready int
	err := poll(ctx, func(ctx context.Context) (bool, error) {
		nodes, err := l.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		ready = 0
		for _, node := range nodes.Items {
			if nodeReady(&node) {
				ready++
			}
		}
		return ready >= l.options.Nodes, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for nodes, %d of %d are ready: %w", ready, l.options.Nodes, err)
	}
	return nil
}

func nodeReady(node *corev1.Node) bool {
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable {
			return false
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// awaitPods waits until the population's Deployments have all their replicas ready. It asks the Deployments, which
// are a hundredth of the pods: the wait must not be a load.
func (l *Lab) awaitPods(ctx context.Context, deployments int) error {
	if deployments == 0 {
		return nil
	}
	var ready int
	err := poll(ctx, func(ctx context.Context) (bool, error) {
		list, err := l.client.AppsV1().Deployments("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		ready = 0
		for _, d := range list.Items {
			ready += int(d.Status.ReadyReplicas)
		}
		return ready >= l.options.Pods, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for pods, %d of %d run: %w", ready, l.options.Pods, err)
	}
	return nil
}

// poll asks until done. Errors are taken for passing ones until the context ends.
func poll(ctx context.Context, done func(context.Context) (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("%w (last: %v)", context.Cause(ctx), err)
			}
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
