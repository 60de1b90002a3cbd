// Reconciler is a controller as anybody writes one with controller-runtime, for the tests of the gate's relay. It writes
// what it reads from its cache, so that what is in the cluster in the end tells what it has seen. It is a module of its own,
// because each minor of controller-runtime wants another minor of client-go, and the house has one; see README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// seen is the annotation and the label that are copied to where the reconciler writes.
const seen = "seen"

func main() {
	namespace := flag.String("namespace", "", "where everything is")
	name := flag.String("name", "", "what the reconciler's own objects, conditions and annotations are named by")
	flag.Parse() // controller-runtime brings -kubeconfig
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(ctrl.SetupSignalHandler(), *namespace, *name); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, namespace, name string) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	config.QPS = -1 // what is tested is what it sees, not how slowly it may write
	here := map[string]cache.Config{namespace: {}}
	m, err := ctrl.NewManager(config, ctrl.Options{
		Metrics: server.Options{BindAddress: "0"},
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&corev1.ConfigMap{}:      {Namespaces: here, Label: labels.SelectorFromSet(labels.Set{"reconcile": "yes"})},
			&coordinationv1.Lease{}:  {Namespaces: here, Label: labels.SelectorFromSet(labels.Set{"by": name})},
			&corev1.Pod{}:            {Namespaces: here, Field: fields.OneTermEqualSelector("spec.schedulerName", "nobody")},
			&corev1.ServiceAccount{}: {Namespaces: here},
		}},
	})
	if err != nil {
		return err
	}
	c := m.GetClient()
	if err := ctrl.NewControllerManagedBy(m).For(&corev1.ConfigMap{}).
		Watches(&coordinationv1.Lease{}, ofSameSource(name)).
		Complete(&owned{c: c, name: name}); err != nil {
		return err
	}
	if err := ctrl.NewControllerManagedBy(m).For(&corev1.Pod{}).Complete(&status{c: c, name: name}); err != nil {
		return err
	}
	accounts := &metav1.PartialObjectMetadata{}
	accounts.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	if err := ctrl.NewControllerManagedBy(m).Named("metadata").For(accounts, builder.OnlyMetadata).Complete(&metadata{c: c, name: name}); err != nil {
		return err
	}
	return m.Start(ctx)
}

// owned makes a Lease for each ConfigMap, with what the ConfigMap says, and takes it away when there is none.
type owned struct {
	c    client.Client
	name string
}

// Reconcile implements reconcile.Reconciler.
func (r *owned) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: r.name + "-" + request.Name}}
	source := &corev1.ConfigMap{}
	if err := r.c.Get(ctx, request.NamespacedName, source); err != nil {
		if !apierrors.IsNotFound(err) {
			return ctrl.Result{}, err
		}
		return ctrl.Result{}, client.IgnoreNotFound(r.c.Delete(ctx, lease))
	}
	_, err := controllerutil.CreateOrUpdate(ctx, r.c, lease, func() error {
		lease.Labels = map[string]string{"by": r.name}
		lease.Annotations = map[string]string{seen: source.Data["n"]}
		return nil
	})
	return again(err)
}

// status says in a condition of each Pod what the Pod's annotation says.
type status struct {
	c    client.Client
	name string
}

// Reconcile implements reconcile.Reconciler.
func (r *status) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	pod := &corev1.Pod{}
	if err := r.c.Get(ctx, request.NamespacedName, pod); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	of, want := corev1.PodConditionType("example.com/"+r.name), pod.Annotations["n"]
	for _, condition := range pod.Status.Conditions {
		if condition.Type == of && condition.Message == want {
			return ctrl.Result{}, nil
		}
	}
	kept := pod.Status.Conditions[:0]
	for _, condition := range pod.Status.Conditions {
		if condition.Type != of {
			kept = append(kept, condition)
		}
	}
	pod.Status.Conditions = append(kept, corev1.PodCondition{Type: of, Status: corev1.ConditionTrue, Message: want})
	return again(r.c.Status().Update(ctx, pod))
}

// metadata copies a label of each ServiceAccount, of which it caches nothing but the metadata, to an annotation.
type metadata struct {
	c    client.Client
	name string
}

// Reconcile implements reconcile.Reconciler.
func (r *metadata) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	account := &metav1.PartialObjectMetadata{}
	account.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	if err := r.c.Get(ctx, request.NamespacedName, account); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	of, want := seen+"/"+r.name, account.Labels["n"]
	if got, there := account.Annotations[of]; there && got == want {
		return ctrl.Result{}, nil
	}
	before := account.DeepCopy()
	if account.Annotations == nil {
		account.Annotations = map[string]string{}
	}
	account.Annotations[of] = want
	return again(client.IgnoreNotFound(r.c.Patch(ctx, account, client.MergeFrom(before))))
}

// again asks for another try where somebody else wrote first: no fault, and not to be waited for longer each time.
func again(err error) (ctrl.Result, error) {
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return ctrl.Result{RequeueAfter: retryAfter}, nil
	case apierrors.IsNotFound(err):
		return ctrl.Result{}, nil // deleted meanwhile, which the cache says next
	}
	return ctrl.Result{}, err
}
