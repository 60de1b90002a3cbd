package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/lab"
)

// cluster is a lab with components that are measured on it, all at a time where they are on few nodes.
type cluster struct {
	name   string
	nodes  int
	lab    *lab.Lab
	kube   kubernetes.Interface
	server observe.Server
	say    run.Say
	began  time.Time
}

func newCluster(ctx context.Context, o options, dir, name string, nodes int, say run.Say) (_ *cluster, err error) {
	c := &cluster{name: name, nodes: nodes, say: say, began: time.Now()}
	say("bringing up a control plane with %d nodes", nodes)
	c.lab, err = lab.UpPopulated(ctx, lab.Options{Dir: filepath.Join(dir, name), Nodes: nodes, Pods: min(300, 3*nodes), Seed: 1, Self: o.seakeep}, "")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.lab.StartAgents(ctx); err != nil {
		return nil, err
	}
	config := c.lab.RESTConfig(lab.Masters)
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	c.server = observe.Server{Name: name, URL: c.lab.APIServerURL(0) + "/metrics", Client: client}
	return c, nil
}

func (c *cluster) close() {
	if err := c.lab.Down(context.Background()); err != nil {
		c.say("taking %s down: %v", c.name, err)
	}
	if t, ok := c.server.Client.Transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// account is a variation's ServiceAccount; its namespace has the variation's name.
const account = "agent"

func schemaOf(v variation) observe.Schema {
	return observe.Schema{ServiceAccount: v.Name + "/" + account, Shares: observe.DefaultShares, For: 2 * time.Hour}
}

// install makes a variation's namespace, what is read there, its flow schema and its DaemonSet, which runs on no node yet.
func (c *cluster) install(ctx context.Context, v variation) error {
	core := c.kube.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v.Name}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a namespace: %w", err)
	}
	meta := metav1.ObjectMeta{Name: account, Namespace: v.Name}
	if _, err := core.ServiceAccounts(v.Name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a service account: %w", err)
	}
	role := &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}}
	if _, err := c.kube.RbacV1().Roles(v.Name).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a role: %w", err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: v.Name, Name: account}}}
	if _, err := c.kube.RbacV1().RoleBindings(v.Name).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("binding a role: %w", err)
	}
	text := strings.Repeat("the quick brown fox jumps over 12 lazy dogs. ", 1+v.Bytes/45)[:v.Bytes]
	for i := range v.Objects {
		one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("object-%d", i)}, Data: map[string]string{"text": text}}
		if _, err := core.ConfigMaps(v.Name).Create(ctx, one, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("making what is read: %w", err)
		}
	}
	if err := schemaOf(v).Install(ctx, c.kube, false); err != nil {
		return err
	}
	labels := map[string]string{"app": v.Name}
	_, err := c.kube.AppsV1().DaemonSets(v.Name).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: v.annotations()},
			Spec: corev1.PodSpec{
				ServiceAccountName: account, NodeSelector: map[string]string{v.Name: "on"},
				Containers: []corev1.Container{{Name: "agent", Image: "registry.example.com/agent:1"}},
			},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making a DaemonSet: %w", err)
	}
	return nil
}

// expose lets a variation onto the first nodes, and returns when it runs there and has been for a period.
func (c *cluster) expose(ctx context.Context, v variation, nodes int) error {
	errs := make(chan error, 8)
	next := make(chan int)
	var all sync.WaitGroup
	for range cap(errs) {
		all.Go(func() {
			for i := range next {
				patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"on"}}}`, v.Name)
				if _, err := c.kube.CoreV1().Nodes().Patch(ctx, lab.NodeName(i), "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
					select {
					case errs <- fmt.Errorf("enrolling a node: %w", err):
					default:
					}
				}
			}
		})
	}
	// As in a rollout that takes its time, agents start one after the other, over a period: all at once they would go on asking
	// at once.
	pace := time.NewTicker(max(time.Millisecond, v.every()/time.Duration(max(1, nodes))))
	defer pace.Stop()
	for i := range nodes {
		next <- i
		<-pace.C
	}
	close(next)
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	err := run.Until(ctx, 2*time.Minute, func(ctx context.Context) error {
		if err := run.Pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		ds, err := c.kube.AppsV1().DaemonSets(v.Name).Get(ctx, account, metav1.GetOptions{})
		if err == nil && int(ds.Status.NumberReady) != nodes {
			err = fmt.Errorf("%s runs on %d of %d nodes", v.Name, ds.Status.NumberReady, nodes)
		}
		return err
	})
	if err != nil {
		return err
	}
	return run.Pause(ctx, v.Period+time.Second) // the first requests of all are their start
}

// exposeAll lets all of them onto the first nodes, at the same time.
func (c *cluster) exposeAll(ctx context.Context, all []variation, nodes int) error {
	if nodes == 0 {
		return nil
	}
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, v := range all {
		group.Go(func() { errs[i] = c.expose(ctx, v, nodes) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// end takes a variation away.
func (c *cluster) end(ctx context.Context, v variation) error {
	if err := c.kube.AppsV1().DaemonSets(v.Name).Delete(ctx, account, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting a DaemonSet: %w", err)
	}
	return run.Until(ctx, 2*time.Minute, func(ctx context.Context) error {
		if err := run.Pause(ctx, time.Second); err != nil {
			return err
		}
		pods, err := c.kube.CoreV1().Pods(v.Name).List(ctx, metav1.ListOptions{ResourceVersion: "0", Limit: 1})
		if err == nil && len(pods.Items) > 0 {
			err = errors.New("there are pods still")
		}
		return err
	})
}

// exposed is a Place that is known.
type exposed struct{ at observe.Exposure }

// Exposure implements observe.Place.
func (e exposed) Exposure(context.Context) (observe.Exposure, error) { return e.at, nil }

// hold measures variations at the same time, each by its own flow schema.
func (c *cluster) hold(ctx context.Context, all []variation, nodes int, window time.Duration, windows int) (map[string][]forecast.Sample, error) {
	var mu sync.Mutex
	samples := map[string][]forecast.Sample{}
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, v := range all {
		group.Go(func() {
			name := schemaOf(v).Name()
			meter := &observe.Flow{Servers: []observe.Server{c.server}, Schema: name, Level: name}
			place := exposed{observe.Exposure{Cluster: c.name, Nodes: c.nodes, Exposed: nodes, Objects: v.Objects}}
			errs[i] = observe.Samples(ctx, meter, place, observe.Hold{Window: window, Windows: windows}, func(s forecast.Sample) {
				mu.Lock()
				defer mu.Unlock()
				samples[v.Name] = append(samples[v.Name], s)
			})
		})
	}
	group.Wait()
	return samples, errors.Join(errs...)
}

// record reads a variation's requests out of the API server's audit log.
func (c *cluster) record(v variation, phases []phase) (*trace, error) {
	log, err := observe.NewAuditLog(observe.AuditOptions{User: observe.ServiceAccountUser(v.Name + "/" + account), Cluster: c.name, Nodes: c.nodes})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(c.lab.AuditLog(0))
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	defer f.Close()
	if err := log.Read(f.Name(), f); err != nil {
		return nil, err
	}
	t := &trace{header: header{Variation: v, Nodes: c.nodes, Phases: phases}}
	for _, r := range log.Requests {
		r.Start = begin.Add(r.Start.Sub(c.began))
		if r.Start.After(begin) {
			t.requests = append(t.requests, r)
		}
	}
	return t, nil
}
