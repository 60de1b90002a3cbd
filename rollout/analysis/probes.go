package analysis

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The probes: a new connection and a GET over it; a LIST that must ask etcd; a pod's creation.
const (
	probeConnect   = "connect"
	probeList      = "list"
	probeCreatePod = "createPod"
)

// probeTimes is how often each is done at one look.
const probeTimes = 3

func probeNames(p v1alpha1.RolloutProbes) []string {
	names := []string{probeConnect, probeList}
	if p.CreatePod != v1alpha1.ProbeDisabled {
		names = append(names, probeCreatePod)
	}
	return names
}

// probe does what users do, past what caches would answer for.
func (c *cluster) probe(ctx context.Context, p v1alpha1.RolloutProbes, now func() time.Time) part {
	what := map[string]struct {
		whom string
		do   func(context.Context, v1alpha1.RolloutProbes) error
	}{
		probeConnect:   {"a GET over a new connection", c.connect},
		probeList:      {"a LIST from etcd", c.list},
		probeCreatePod: {"creating a pod", c.createPod},
	}
	out := part{asked: map[string]verdict.Asked{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, name := range probeNames(p) {
		w := what[name]
		all.Go(func() {
			asked := verdict.Asked{Check: checkProbes + name, Whom: w.whom}
			for i := range probeTimes {
				if i > 0 && name == probeCreatePod && p.CreatePod == v1alpha1.ProbeReal {
					break // one pod a look
				}
				within, cancel := context.WithTimeout(ctx, p.Timeout.Duration)
				started := time.Now()
				err := w.do(within, p)
				took := time.Since(started)
				cancel()
				asked.Asked++
				if err != nil {
					asked.Wrong = err.Error()
					continue
				}
				asked.Answered++
				asked.Took = append(asked.Took, took)
			}
			asked.At = now()
			mu.Lock()
			defer mu.Unlock()
			out.asked[checkProbes+name] = asked
		})
	}
	all.Wait()
	return out
}

// connect opens a connection, is authenticated and authorized, and reads one object.
func (c *cluster) connect(ctx context.Context, p v1alpha1.RolloutProbes) error {
	_, err := get(ctx, c.anew, strings.TrimSuffix(c.Config.Host, "/")+"/api/v1/namespaces/"+p.Namespace, 1<<20)
	return err
}

// list leaves the resource version unset, so that the API server must ask etcd how new its cache is, or read from it.
func (c *cluster) list(ctx context.Context, p v1alpha1.RolloutProbes) error {
	_, err := c.client.CoreV1().Services(p.Namespace).List(ctx, metav1.ListOptions{Limit: 1})
	return err
}

// createPod runs what a pod's creation runs through. A real one is also waited for, until a node runs it, and deleted.
func (c *cluster) createPod(ctx context.Context, p v1alpha1.RolloutProbes) error {
	name := "seakeep-probe-" + uuid.NewString()[:13]
	grace := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "seakeep", "app.kubernetes.io/component": "rollout-probe"}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "probe", Image: p.Image}},
		},
	}
	options := metav1.CreateOptions{FieldManager: "seakeep-rollout"}
	if p.CreatePod == v1alpha1.ProbeDryRun {
		options.DryRun = []string{metav1.DryRunAll}
		_, err := c.client.CoreV1().Pods(p.Namespace).Create(ctx, pod, options)
		return err
	}
	made, err := c.client.CoreV1().Pods(p.Namespace).Create(ctx, pod, options)
	if err != nil {
		return err
	}
	defer func() {
		// Also when the time is over: nothing may be left behind.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.client.CoreV1().Pods(p.Namespace).Delete(clean, name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &made.UID}})
	}()
	for {
		got, err := c.client.CoreV1().Pods(p.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return fmt.Errorf("the pod was deleted by somebody else")
		case err == nil && got.Status.Phase != corev1.PodPending:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the pod was created and no node runs it: %w", context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
