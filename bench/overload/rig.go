package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

const (
	// cores are the API server's.
	cores = 1
	// ending is how long a process that is to end may take before it is killed.
	ending = 300 * time.Millisecond
	// hotObjects are written by all writers.
	hotObjects     = 10
	leaseNamespace = "kube-node-lease"
)

// Who asks. All have client certificates, which pass every way.
var (
	// ordinary is a DaemonSet's ServiceAccount: what its pods do is one user's.
	ordinary = lab.User("system:serviceaccount:"+namespace+":agent", "system:serviceaccounts")
	// exempt is what no priority and no limit of the API server's applies to.
	exempt = lab.User("bench-exempt", "system:masters")
)

// rig is the control plane, the ways to it, and who asks.
type rig struct {
	options options
	dir     string
	say     run.Say
	lab     *lab.Lab
	server  *lab.Process
	kube    kubernetes.Interface // directly
	ca      []byte
	roots   *x509.CertPool
	ways    []*way
	// best are the settings that sweeps found, by kind of storm and contender.
	best map[agents.Work]map[string]*way
	// costErrors are of the gate's predictions, in per cent.
	costErrors map[string]result.Runs
}

func newRig(ctx context.Context, o options, dir string, say run.Say) (_ *rig, err error) {
	r := &rig{options: o, dir: dir, say: say, best: map[agents.Work]map[string]*way{}, costErrors: map[string]result.Runs{}}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	r.say("bringing up a control plane with %d nodes and %d pods", o.nodes, o.pods)
	// It is bounded from the first turn on.
	r.lab, err = lab.UpPopulated(ctx, lab.Options{
		Dir: filepath.Join(r.dir, "lab"), Nodes: o.nodes, Pods: o.pods, Seed: 1,
		// One who dies again and again is to be seen dying, not waited for.
		Backoff: lab.Backoff{Initial: time.Second, Max: time.Second},
	}, o.frozen)
	if err != nil {
		return nil, err
	}
	// From here on nothing works but what is measured; the nodes renew their leases by themselves.
	for _, kind := range []string{lab.KindKWOK, lab.KindScheduler, lab.KindControllerManager} {
		if p, ok := r.lab.Process(kind); ok {
			if err := p.Stop(ctx); err != nil {
				return nil, err
			}
		}
	}
	r.server, _ = r.lab.Process(lab.KindAPIServer)
	if r.kube, err = kubernetes.NewForConfig(r.lab.RESTConfig(lab.Masters)); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	if r.ca, err = os.ReadFile(r.lab.CAFile()); err != nil {
		return nil, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	if r.roots, err = pki.LoadPool(r.lab.CAFile()); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	return r, r.openWays(ctx)
}

// Close implements run.Rig.
func (r *rig) Close() {
	if r.lab == nil {
		return
	}
	if err := r.lab.Down(context.Background()); err != nil {
		r.say("taking the control plane down: %v", err)
	}
}

// prepare makes what is asked for, the agents' rights, and the nodes' leases.
func (r *rig) prepare(ctx context.Context) error {
	core, rbac := r.kube.CoreV1(), r.kube.RbacV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a namespace: %w", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bench-agent"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "configmaps"}, Verbs: []string{"get", "list", "watch", "patch"}},
	}}
	if _, err := rbac.ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the agents' role: %w", err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "agent"}},
	}
	if _, err := rbac.ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("granting the agents their rights: %w", err)
	}
	for i := range hotObjects {
		hot := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("hot-%d", i)}, Data: map[string]string{"at": ""}}
		if _, err := core.ConfigMaps(namespace).Create(ctx, hot, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making what is written: %w", err)
		}
	}
	probed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: probedName}, Data: map[string]string{"a": "b"}}
	if _, err := core.ConfigMaps(namespace).Create(ctx, probed, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making what the engineer reads: %w", err)
	}
	for i := range r.options.nodes {
		name := lab.NodeName(i)
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name}}
		_, err := r.kube.CoordinationV1().Leases(leaseNamespace).Create(ctx, lease, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making a node's lease: %w", err)
		}
	}
	return nil
}

// transport is an identity's, with an HTTP/2 connection of its own.
func (r *rig) transport(id lab.Identity) (*http.Transport, error) {
	t := door.Transport(r.roots, false)
	config := r.lab.RESTConfig(id)
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %s: %w", id, err)
	}
	t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return t, nil
}

// calm waits until the API server has done with starting.
func (r *rig) calm(ctx context.Context) error {
	const step, quiet = 300 * time.Millisecond, 0.1
	for range 60 {
		before, err := machine.CPUSeconds(r.server.PID())
		if err != nil {
			return err
		}
		if err := run.Pause(ctx, step); err != nil {
			return err
		}
		after, err := machine.CPUSeconds(r.server.PID())
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
