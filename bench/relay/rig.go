package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// The contenders. Each has a process of that name in the lab, except direct.
const (
	directName = "direct"
	gateName   = "gate"
	naiveName  = "naive"
)

const (
	namespace = "bench"
	agentName = "agent"
	adminName = "admin"
	// nodes of both clusters; each agent's token is bound to one of them.
	nodes = 50
	// grownAgents list the large cluster, as in the incident of 2024-12-11.
	grownAgents = 300
)

// rig is a control plane, what stands before it, and the clients' credentials. There is one for each size of cluster, one
// after the other.
type rig struct {
	options options
	dir     string
	say     run.Say
	pods    int // in the cluster
	lab     *lab.Lab
	kube    kubernetes.Interface
	ca      []byte
	roots   *x509.CertPool
	tokens  []string // the agents'
	admin   string   // an engineer's token
	urls    map[string]string
	gate    *door.Gate
	buffer  bytes.Buffer
	beating sync.Mutex // one beat after the other
}

func newRig(ctx context.Context, o options, dir string, say run.Say) (*rig, error) {
	r := &rig{options: o, dir: dir, say: say}
	return r, r.open(ctx, o.pods)
}

// open brings a cluster of a size up, in place of the one before.
func (r *rig) open(ctx context.Context, pods int) (err error) {
	r.Close()
	r.pods, r.urls, r.tokens = pods, map[string]string{}, nil
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	frozen := r.options.frozen
	if frozen != "" {
		frozen = filepath.Join(frozen, strconv.Itoa(pods))
	}
	r.say("bringing up a control plane with %d pods", pods)
	r.lab, err = lab.UpPopulated(ctx, lab.Options{Dir: filepath.Join(r.dir, fmt.Sprintf("lab-%d", pods)), Nodes: nodes, Pods: pods, Seed: 1}, frozen)
	if err != nil {
		return err
	}
	// From here on nothing works but what is measured.
	for _, kind := range []string{lab.KindKWOK, lab.KindScheduler, lab.KindControllerManager} {
		if p, ok := r.lab.Process(kind); ok {
			if err := p.Stop(ctx); err != nil {
				return err
			}
		}
	}
	if r.kube, err = kubernetes.NewForConfig(r.lab.RESTConfig(lab.Masters)); err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	if r.ca, err = os.ReadFile(r.lab.CAFile()); err != nil {
		return fmt.Errorf("reading the cluster's CA: %w", err)
	}
	if r.roots, err = pki.LoadPool(r.lab.CAFile()); err != nil {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.urls[directName] = r.lab.APIServerURL(0)
	if err := r.startGate(ctx); err != nil {
		return err
	}
	if err := r.startNaive(ctx); err != nil {
		return err
	}
	return r.startBare(ctx)
}

// Close implements run.Rig.
func (r *rig) Close() {
	if r.lab == nil {
		return
	}
	if err := r.lab.Down(context.Background()); err != nil {
		r.say("taking the control plane down: %v", err)
	}
	r.lab = nil
}

// prepare makes the agents' account, with a token for each, as a DaemonSet's pods have it, an engineer's, and an object
// that is watched.
func (r *rig) prepare(ctx context.Context) error {
	core, rbac := r.kube.CoreV1(), r.kube.RbacV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the clients' namespace: %w", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bench-agent"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "configmaps"}, Verbs: []string{"get", "list", "watch"}},
	}}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the agents' role: %w", err)
	}
	for account, role := range map[string]string{agentName: role.Name, adminName: "cluster-admin"} {
		if _, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}}, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making account %s: %w", account, err)
		}
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "bench-" + account},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}},
		}
		if _, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("granting account %s its rights: %w", account, err)
		}
	}
	beat := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: beatName}, Data: map[string]string{beatKey: "0"}}
	if _, err := core.ConfigMaps(namespace).Create(ctx, beat, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making what is watched: %w", err)
	}
	admin, err := r.token(ctx, adminName, nil)
	if err != nil {
		return err
	}
	r.admin = admin
	return r.agentTokens(ctx)
}

// agentTokens makes a token for each agent, bound to its node: each is another token, with other extras.
func (r *rig) agentTokens(ctx context.Context) error {
	list, err := r.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing nodes: %w", err)
	}
	if len(list.Items) == 0 {
		return errors.New("the cluster has no nodes")
	}
	r.tokens = make([]string, max(r.options.most, grownAgents))
	errs := make([]error, 8)
	var making sync.WaitGroup
	for w := range errs {
		making.Go(func() {
			for i := w; i < len(r.tokens) && errs[w] == nil; i += len(errs) {
				node := &list.Items[i%len(list.Items)]
				r.tokens[i], errs[w] = r.token(ctx, agentName, &authenticationv1.BoundObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID})
			}
		})
	}
	making.Wait()
	return errors.Join(errs...)
}

func (r *rig) token(ctx context.Context, account string, bound *authenticationv1.BoundObjectReference) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(4 * 3600)), BoundObjectRef: bound}}
	token, err := r.kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("making a token of %s: %w", account, err)
	}
	return token.Status.Token, nil
}

// pid is a lab process's.
func (r *rig) pid(name string) int {
	p, ok := r.lab.Process(name)
	if !ok {
		panic("BUG: the lab has no process " + name)
	}
	return p.PID()
}

// restart begins a proxy anew, so that its memory is that of one that has just begun, and returns what it has then.
func (r *rig) restart(ctx context.Context, contender string) (resident int64, err error) {
	if contender == directName {
		return 0, nil
	}
	p, _ := r.lab.Process(contender)
	if err := p.Restart(ctx); err != nil {
		return 0, err
	}
	return machine.Resident(r.pid(contender))
}

// usage is CPU seconds.
type usage struct{ proxy, server float64 }

func (r *rig) used(contender string) (u usage, err error) {
	if u.server, err = machine.CPUSeconds(r.pid(lab.KindAPIServer)); err != nil {
		return u, err
	}
	if contender != directName {
		u.proxy, err = machine.CPUSeconds(r.pid(contender))
	}
	return u, err
}

// calm waits until the API server has done with what was asked before: what it still works off is not the next turn's.
func (r *rig) calm(ctx context.Context) error {
	const step, quiet = 300 * time.Millisecond, 0.06
	for range 60 {
		before, err := machine.CPUSeconds(r.pid(lab.KindAPIServer))
		if err != nil {
			return err
		}
		if err := run.Pause(ctx, step); err != nil {
			return err
		}
		after, err := machine.CPUSeconds(r.pid(lab.KindAPIServer))
		if err != nil {
			return err
		}
		if after-before <= quiet {
			return nil
		}
	}
	r.say("the API server does not come to rest")
	return nil
}

// Setup implements run.Rig.
func (r *rig) Setup(context.Context) []string {
	o := r.options
	return []string{
		fmt.Sprintf("One unbounded kube-apiserver with its audit log on and its default priority and fairness, one etcd, %d pods of about 8 KB, and then %d; controllers, scheduler and kubelets are stopped before it begins.", o.pods, o.grown),
		"Nothing is pinned: API server, etcd, proxy and clients share the machine's CPUs, so that a proxy has to save what it uses. Direct has all of them to itself. The agents are a process of its own at nice 10.",
		fmt.Sprintf("Agents LIST all pods every 5 s in JSON, accept gzip as client-go does, have an HTTP/2 connection and a token each (one ServiceAccount, bound to %d nodes), wait as client-go's reflector after a failure, and as told after a 429. Rates are of the time measured: %s after a warm-up of %s, and %s after %s where the agents saturate.", nodes, o.Turn, warmUp, saturatedTurns*o.Turn, warmUpSaturated),
		"An answer counts when all its bytes came and are a whole list: of every answer that is not byte for byte like one before, the bytes are unpacked and the objects counted. A WatchList counts when every object and the bookmark that ends the initial events came; then it is left, and opened again 5 s after it began. Where many are under way when the time is over, the rate is given also with the bytes that came of them, as a part of an answer's, and CPU per delivered answer is of that.",
		fmt.Sprintf("All the while one pod is written %d times a second, and an engineer reads a ConfigMap %d times a second by the same way as the agents; his latency is from when the request was due.", writesPerSecond, adminPerSecond),
		"gate is the process `seakeep gate` with every limit off and its relay on for pods and configmaps, in mode MostRecent; naive is bench/relay/naive: one LIST runs and one waits, without gzip, cancellation, bounds, or asking who the others are. It shares no watches and is left out there. bare is no rival but the floor: a server of net/http alone that writes the same bytes from memory through TLS and HTTP/2.",
		fmt.Sprintf("%d rounds; in each, every contender has a turn, in rotating order, with a proxy newly started. CPU is user and system time of a process from /proc over the time measured. Memory is the peak resident memory of the turn less that of the process just started.", o.Rounds),
		run.LoadAverage(),
	}
}

// Measure implements run.Rig.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	o := &r.options
	if err := r.measureHits(ctx, report); err != nil {
		return fmt.Errorf("measuring %s: %w", hits, err)
	}
	if err := r.measureDelivery(ctx, report); err != nil {
		return fmt.Errorf("measuring %s: %w", delivery, err)
	}
	if err := r.measureMemory(ctx, report); err != nil {
		return fmt.Errorf("measuring %s: %w", memoryName, err)
	}
	if err := r.measureObjects(ctx, report); err != nil {
		return fmt.Errorf("measuring %s: %w", manyName, err)
	}
	if err := r.measureAgents(ctx, report, []int{o.most / 100, o.most / 10, o.most}); err != nil {
		return err
	}
	if !o.Wanted(sharing{agents: grownAgents, pods: o.grown}.name()) && !o.Wanted(sharing{agents: grownAgents, pods: o.grown, watchList: true}.name()) {
		return nil
	}
	if err := r.open(ctx, o.grown); err != nil {
		return err
	}
	return r.measureAgents(ctx, report, []int{grownAgents})
}
