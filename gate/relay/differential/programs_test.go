package differential

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

// TestTheControlPlaneItself puts a gate that shares everything in front of the controller manager, the scheduler and the
// nodes, whose client libraries are of the control plane's minor: reflectors that LIST or WatchList as that minor does, in
// protobuf and JSON, of every resource there is. A cluster comes up, and what is created, changed and deleted has the
// consequences it always has.
func TestTheControlPlaneItself(t *testing.T) {
	registry := prometheus.NewRegistry()
	dir := t.TempDir()
	var ended chan error
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	l, err := lab.Up(t.Context(), lab.Options{
		Dir: filepath.Join(dir, "lab"), Nodes: 5, Pods: 30, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		FrontDoor: func(_ context.Context, l *lab.Lab) (url, caFile string, err error) {
			file := gatetest.Write(t, l, dir, gatetest.Options{More: everything})
			g, err := gate.New(gate.Options{
				Load: func() (*v1alpha1.GateConfiguration, *config.Document, error) {
					return config.LoadKind[*v1alpha1.GateConfiguration](file, strings.NewReader(""))
				},
				ConfigFile: file, Gatherer: registry, Registerer: registry, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			})
			if err != nil {
				return "", "", err
			}
			ended = make(chan error, 1)
			go func() { ended <- g.Run(ctx) }()
			return "https://" + g.Address().String(), l.CAFile(), nil
		},
	})
	check(t, err)
	defer func() {
		check(t, l.Down(context.Background()))
		stop()
		check(t, <-ended)
	}()
	check(t, l.Populate(t.Context())) // Deployments through controllers, scheduler and nodes to pods that run
	kube := gatetest.Clientset(t, l.RESTConfig(lab.Masters))
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "shared", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(12)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "shared"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "shared"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example.com/c:1"}}},
			},
		},
	}
	deployments := kube.AppsV1().Deployments("default")
	_, err = deployments.Create(t.Context(), deployment, metav1.CreateOptions{})
	check(t, err)
	ready := func(want int32) func() error {
		return func() error {
			d, err := deployments.Get(t.Context(), "shared", metav1.GetOptions{})
			if err == nil && (d.Status.ReadyReplicas != want || d.Status.UpdatedReplicas != want || d.Status.ObservedGeneration != d.Generation) {
				err = fmt.Errorf("%d of %d are ready", d.Status.ReadyReplicas, want)
			}
			return err
		}
	}
	eventually(t, time.Minute, ready(12))
	scale, err := deployments.GetScale(t.Context(), "shared", metav1.GetOptions{})
	check(t, err)
	scale.Spec.Replicas = 3
	_, err = deployments.UpdateScale(t.Context(), "shared", scale, metav1.UpdateOptions{})
	check(t, err)
	eventually(t, time.Minute, ready(3))
	check(t, deployments.Delete(t.Context(), "shared", metav1.DeleteOptions{}))
	eventually(t, time.Minute, func() error { // the garbage collector's watches, in media types of their own
		pods, err := kube.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=shared"})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
	check(t, kube.CoreV1().Namespaces().Delete(t.Context(), "app-0", metav1.DeleteOptions{}))
	eventually(t, 2*time.Minute, func() error {
		_, err := kube.CoreV1().Namespaces().Get(t.Context(), "app-0", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the namespace is still there"), err)
	})
	lane := &gatetest.Lane{Registry: registry}
	events, delivered := counter(t, lane, eventsTotal), counter(t, lane, deliveredTotal)
	t.Logf("%v answers of %v reads; %v events became %v", counter(t, lane, answersTotal), counter(t, lane, readsTotal), events, delivered)
	if delivered == 0 || counter(t, lane, answersTotal) == 0 {
		t.Error("nothing was shared")
	}
}
