package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// The contenders. Each has a process of that name in the lab, except direct.
const (
	directName  = "direct"
	gateName    = "gate"
	haproxyName = "haproxy"
	nginxName   = "nginx"
)

const (
	namespace = "bench"
	// accounts is how many clients there are, each with a ServiceAccount and a connection of its own: the shipped
	// limits hold each user to its share, and no more is sent than they let through.
	accounts = 16
)

// rig is the control plane, what stands before it, and the clients.
type rig struct {
	options options
	dir     string
	say     run.Say
	lab     *lab.Lab
	kube    kubernetes.Interface
	roots   *x509.CertPool
	tokens  []string
	// urls of the contenders; order is the order of their turns.
	urls  map[string]string
	order []string
	gate  *door.Gate
	pods  []podName
	cpus  run.CPUs // Server: the API server's and etcd's; Load: the clients' and proxies'
}

// podName is a pod's namespace and name.
type podName struct{ namespace, name string }

// newRig brings everything up.
func newRig(ctx context.Context, o options, dir string, say run.Say) (_ *rig, err error) {
	r := &rig{options: o, dir: dir, say: say, urls: map[string]string{}, order: []string{directName, gateName, haproxyName, nginxName}}
	program, err := filepath.Abs(o.seakeep)
	if err != nil {
		return nil, fmt.Errorf("finding the program under test: %w", err)
	}
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("finding the program under test: %w", err)
	}
	r.options.seakeep = program
	r.say("bringing up a control plane with %d pods", o.pods)
	r.lab, err = lab.UpPopulated(ctx, lab.Options{Dir: filepath.Join(r.dir, "lab"), Nodes: 50, Pods: o.pods, Seed: 1}, o.frozen)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	// From here on nothing works but what is measured.
	for _, kind := range []string{lab.KindKWOK, lab.KindScheduler, lab.KindControllerManager} {
		if p, ok := r.lab.Process(kind); ok {
			if err := p.Stop(ctx); err != nil {
				return nil, err
			}
		}
	}
	if r.kube, err = kubernetes.NewForConfig(r.lab.RESTConfig(lab.Masters)); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	if r.roots, err = pki.LoadPool(r.lab.CAFile()); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	r.urls[directName] = r.lab.APIServerURL(0)
	for _, start := range []func(context.Context) error{r.startGate, r.startHAProxy, r.startNginx} {
		if err := start(ctx); err != nil {
			return nil, err
		}
	}
	return r, r.pin()
}

// Close takes everything down.
func (r *rig) Close() {
	if err := r.lab.Down(context.Background()); err != nil {
		r.say("taking the control plane down: %v", err)
	}
}

// prepare makes the clients' accounts and what they will ask for.
func (r *rig) prepare(ctx context.Context) error {
	core := r.kube.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the clients' namespace: %w", err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:" + namespace},
			{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: certificateUser.String()},
		},
	}
	if _, err := r.kube.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("granting the clients their rights: %w", err)
	}
	for i := range accounts {
		name := "client-" + strconv.Itoa(i)
		if _, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making a client's account: %w", err)
		}
		token, err := core.ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(4 * 3600))},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("making a client's token: %w", err)
		}
		r.tokens = append(r.tokens, token.Status.Token)
	}
	beat := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: beatName}, Data: map[string]string{beatKey: "0"}}
	if _, err := core.ConfigMaps(namespace).Create(ctx, beat, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making what is watched: %w", err)
	}
	list, err := core.Pods(smallNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	for _, p := range list.Items {
		r.pods = append(r.pods, podName{p.Namespace, p.Name})
	}
	if len(r.pods) < 64 {
		return fmt.Errorf("namespace %s has %d pods, want ≥ 64", smallNamespace, len(r.pods))
	}
	return nil
}

// pin gives the API server and etcd one half of the CPUs, clients and proxies the other: a proxy normally does not
// share a machine with its API server, and what saturates shall be the API server. One CPU is shared by all.
func (r *rig) pin() (err error) {
	if r.cpus, err = run.Halve(); err != nil {
		return err
	}
	for _, name := range []string{lab.KindAPIServer, lab.KindEtcd} {
		if err := r.cpus.Pin(r.pid(name), r.cpus.Server); err != nil {
			return err
		}
	}
	return nil
}

// pid is a lab process's.
func (r *rig) pid(name string) int {
	p, ok := r.lab.Process(name)
	if !ok {
		panic("BUG: the lab has no process " + name)
	}
	return p.PID()
}

// restart begins a proxy anew, so that its memory is that of one that has just begun.
func (r *rig) restart(ctx context.Context, name string) error {
	p, _ := r.lab.Process(name)
	if err := p.Restart(ctx); err != nil {
		return err
	}
	return r.cpus.Pin(r.pid(name), r.cpus.Load)
}

// Setup says how it is measured.
func (r *rig) Setup(ctx context.Context) []string {
	pinned := "Everything shares one CPU."
	if r.cpus.Load != nil {
		pinned = fmt.Sprintf("The API server and etcd are pinned to CPU %s, clients and proxies to CPU %s: at saturation it is the API server that is saturated, as where a proxy has a machine of its own.",
			run.List(r.cpus.Server), run.List(r.cpus.Load))
	}
	return []string{
		fmt.Sprintf("One unbounded kube-apiserver with its audit log on, one etcd, %d pods of about 8 KB; controllers, scheduler and kubelets are stopped before it begins.", r.options.pods),
		pinned,
		"The gate is the process `seakeep gate` as shipped: limits, ledger and identity on. " + baseline.HAProxy.Version(ctx) + " speaks HTTP/2 on both sides; " +
			baseline.Nginx.Version(ctx) + " HTTP/2 to clients and HTTP/1.1 with kept connections to the API server, because it has no other; both in HTTP mode, TLS on both sides, certificates verified, without access log.",
		"Watches through nginx are HTTP/1.1, a connection each: over HTTP/2 it keeps the headers of an answer until there is a body, and a quiet watch is never answered.",
		fmt.Sprintf("%d clients, each a ServiceAccount with a bearer token and an HTTP/2 connection of its own: the same for all contenders. A client certificate cannot pass an HTTP proxy, so it is a case of its own.", accounts),
		"Requests leave at a constant rate whatever the answers do, and are timed from when they were due (no coordinated omission). Answers are protobuf and not compressed, which is what costs a proxy most.",
		fmt.Sprintf("%d rounds; in each, every contender has a turn of %s, in rotating order. Rates stay below the shipped limits of the gate.", r.options.Rounds, r.options.Turn),
		"CPU is user and system time of the process from /proc, over the turn; the share of the API server's is of the same turn.",
		run.LoadAverage(),
	}
}
