package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	namespaces        = 10
	endpointsPerSlice = 10
	// makers write at the same time; etcd waits for its disk, so that more do not help.
	makers = 16
)

// names are all of one length, so that queries are.
func serviceName(i int) string   { return fmt.Sprintf("svc-%05d", i) }
func namespaceName(i int) string { return fmt.Sprintf("bench-%d", i%namespaces) }
func fullName(i int) string {
	return serviceName(i) + "." + namespaceName(i) + ".svc.cluster.local."
}

// populate makes services and their endpoints until there are so many.
func (r *rig) populate(ctx context.Context, services int) error {
	r.say("making %d services with %d endpoints", services-r.populated, (services-r.populated)*endpointsPerSlice)
	if r.populated == 0 {
		for i := range namespaces {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceName(i)}}
			if _, err := r.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
				return fmt.Errorf("making a namespace: %w", err)
			}
		}
	}
	if services-r.populated >= bulky {
		if err := r.pour(ctx, r.populated, services); err != nil {
			return err
		}
		r.populated = services
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan int)
	var working sync.WaitGroup
	for range makers {
		working.Go(func() {
			for i := range todo {
				if err := r.create(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := r.populated; i < services && ctx.Err() == nil; i++ {
		todo <- i
	}
	close(todo)
	working.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.populated = services
	return nil
}

func (r *rig) create(ctx context.Context, i int) error {
	service, slice := objects(i)
	if _, err := r.kube.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making a service: %w", err)
	}
	if _, err := r.kube.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making an endpoint slice: %w", err)
	}
	return nil
}

// objects are a service and its endpoints.
func objects(i int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	meta := metav1.ObjectMeta{Name: serviceName(i), Namespace: namespaceName(i), Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}}
	service := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for j := range endpointsPerSlice {
		n := i*endpointsPerSlice + j
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&0xff, n&0xff)},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			NodeName:   new(fmt.Sprintf("node-%d", n%500)),
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: meta.Namespace, Name: fmt.Sprintf("%s-6d4cf56db6-%05d", meta.Name, j),
				UID: types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", n, n)),
			},
		})
	}
	return service, slice
}

// queryFile writes what dnsperf asks.
func (r *rig) queryFile() (string, error) {
	var b strings.Builder
	for i := range r.populated {
		b.WriteString(fullName(i) + " A\n")
	}
	file := filepath.Join(r.dir, "queries.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("writing the queries: %w", err)
	}
	return file, nil
}
