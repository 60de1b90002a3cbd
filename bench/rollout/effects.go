package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/internal/pki"
)

// start lets the change have its effects on the nodes that run it. undo takes all back and waits until that is so.
func (r *labRig) start(ctx context.Context, t trial, exposed []string, update string) (undo func(context.Context) error, err error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	var undos []func(context.Context) error
	undo = func(ctx context.Context) error {
		stop()
		all.Wait()
		var errs []error
		for _, u := range slices.Backward(undos) {
			errs = append(errs, u(ctx))
		}
		return errors.Join(errs...)
	}
	for _, e := range t.Effects {
		u, err := r.effect(ctx, running, &all, e, exposed, update)
		if u != nil {
			undos = append(undos, u)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("effect %s: %w", e.Kind, err), undo(ctx))
		}
	}
	return undo, nil
}

func (r *labRig) effect(ctx, running context.Context, all *sync.WaitGroup, e effect, exposed []string, update string) (undo func(context.Context) error, err error) {
	switch e.Kind {
	case crashLoop, neverReady, lateReady:
		all.Go(func() { r.report(running, e.Kind, update) })
		return nil, nil
	case breakDNS:
		server := r.big.dns.Cluster[1]
		return server.Start, server.Stop(ctx)
	case lists, gets, watches:
		return nil, r.ask(ctx, running, all, e, len(exposed))
	case slowWebhook:
		return r.webhook(ctx, time.Duration(e.Rate)*time.Millisecond)
	case sickNode:
		for _, name := range exposed {
			if err := r.condition(ctx, name, corev1.ConditionTrue); err != nil {
				return nil, err
			}
		}
		return func(ctx context.Context) error {
			for _, name := range exposed {
				if err := r.condition(ctx, name, corev1.ConditionFalse); err != nil {
					return err
				}
			}
			return nil
		}, nil
	case sickNeighbours:
		return r.neighbours(ctx, exposed)
	}
	return nil, fmt.Errorf("there is none of this kind")
}

// report says of the change's containers what a kubelet would.
func (r *labRig) report(ctx context.Context, kind effectKind, update string) {
	since := time.Now()
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		pods, err := r.pods(ctx)
		for i := range pods {
			p := &pods[i]
			if err != nil || p.Labels[appsv1.ControllerRevisionHashLabelKey] != update || len(p.Status.ContainerStatuses) == 0 {
				continue
			}
			s := &p.Status.ContainerStatuses[0]
			ready := corev1.ConditionFalse
			switch kind {
			case crashLoop:
				s.RestartCount = int32(time.Since(since) / time.Second)
				s.Ready = false
				s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			case neverReady:
				s.Ready = false
			case lateReady:
				if s.Ready = time.Since(since) > 2*time.Second; s.Ready {
					ready = corev1.ConditionTrue
				}
			}
			for j := range p.Status.Conditions {
				if c := &p.Status.Conditions[j]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
					c.Status = ready
				}
			}
			_, _ = r.big.client.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ask sends the component's requests, from as many clients as it has nodes; a high rate is as fast as answers come, four at a time.
func (r *labRig) ask(ctx, running context.Context, all *sync.WaitGroup, e effect, nodes int) error {
	for range nodes {
		client, err := r.agent(ctx)
		if err != nil {
			return err
		}
		loops, pause := 1, time.Duration(float64(time.Second)/e.Rate)
		if e.Rate >= 100 {
			loops = 4
		}
		for range loops {
			all.Go(func() {
				for n := 0; running.Err() == nil; n++ {
					within, cancel := context.WithTimeout(running, 10*time.Second)
					switch e.Kind {
					case lists:
						_ = client.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").MaxRetries(0).Do(within).Error()
					case gets:
						_ = client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/node-0000").MaxRetries(0).Do(within).Error()
					case watches:
						// Open for as long as the change runs.
						if w, err := client.CoreV1().Pods("default").Watch(running, metav1.ListOptions{LabelSelector: fmt.Sprint("leak=", n)}); err == nil {
							all.Go(func() {
								defer w.Stop()
								for {
									select {
									case <-running.Done():
										return
									case _, ok := <-w.ResultChan():
										if !ok {
											return
										}
									}
								}
							})
						}
					}
					cancel()
					select {
					case <-running.Done():
					case <-time.After(pause):
					}
				}
			})
		}
	}
	return nil
}

// webhook registers an admission webhook that lets everything through after a while.
func (r *labRig) webhook(ctx context.Context, delay time.Duration) (undo func(context.Context) error, err error) {
	ca, err := pki.NewCA("webhook", time.Hour)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Issue(pki.Spec{CommonName: "webhook", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var review admissionv1.AdmissionReview
		body, err := io.ReadAll(io.LimitReader(q.Body, 4<<20))
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		select {
		case <-q.Context().Done():
		case <-time.After(delay):
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	})}
	server.TLSConfig = tlsOf(pair)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(listener, "", "")
	}()
	url := "https://" + listener.Addr().String()
	fail, none, exact := admissionregistrationv1.Ignore, admissionregistrationv1.SideEffectClassNone, int32(5)
	webhooks := r.big.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	undo = func(ctx context.Context) error {
		err := webhooks.Delete(ctx, component, metav1.DeleteOptions{})
		_ = server.Close()
		<-done
		return err
	}
	_, err = webhooks.Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: component},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "agent.telemetry.test", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca.CertPEM()},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps", "pods"}},
			}},
			FailurePolicy: &fail, SideEffects: &none, TimeoutSeconds: &exact, AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	return undo, err
}

func (r *labRig) condition(ctx context.Context, node string, status corev1.ConditionStatus) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []map[string]any{{"type": corev1.NodeMemoryPressure, "status": status, "lastTransitionTime": metav1.Now(), "reason": "Bench"}}}})
	if err != nil {
		return err
	}
	_, err = r.big.client.CoreV1().Nodes().PatchStatus(ctx, node, patch)
	return err
}

// neighbours makes the other pods of the nodes not ready; undo deletes them, and their controllers make new ones.
func (r *labRig) neighbours(ctx context.Context, exposed []string) (undo func(context.Context) error, err error) {
	var sick []corev1.Pod
	for _, node := range exposed {
		list, err := r.big.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return nil, err
		}
		for _, p := range list.Items {
			if p.Namespace == namespace {
				continue
			}
			for j := range p.Status.Conditions {
				if c := &p.Status.Conditions[j]; c.Type == corev1.PodReady || c.Type == corev1.ContainersReady {
					c.Status = corev1.ConditionFalse
				}
			}
			if _, err := r.big.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, &p, metav1.UpdateOptions{}); err != nil {
				return nil, err
			}
			sick = append(sick, p)
		}
	}
	return func(ctx context.Context) error {
		for _, p := range sick {
			if err := r.big.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
