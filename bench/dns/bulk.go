package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

const (
	// bulky is how many services are too many to be made one by one. What an API server takes to find a free cluster IP grows
	// with how many are taken: on two busy CPUs the last of 10,000 came at 10 a second.
	bulky = 2000
	// perTransaction is below etcd's limit of operations, 128.
	perTransaction = 120
	// arrived is how long the API server may take to have read it all from etcd.
	arrived = time.Minute
)

// record is one of the API server's objects as it stores it.
type record struct {
	Key   []byte `json:"key"` // base64 in JSON
	Value []byte `json:"value"`
}

// pour writes the services [from, to) and all that belongs to them into etcd, as the API server would have, and waits
// until it serves them.
func (r *rig) pour(ctx context.Context, from, to int) error {
	url, config, err := r.etcd()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	taken, err := r.kube.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing cluster IPs: %w", err)
	}
	used := map[string]bool{}
	for _, address := range taken.Items {
		used[address.Name] = true
	}
	var records []record
	for i, next := from, 0; i < to; i, next = i+1, next+1 {
		for used[clusterIP(next)] {
			next++
		}
		for key, o := range stored(i, clusterIP(next)) {
			value, err := encode(o)
			if err != nil {
				return fmt.Errorf("encoding %s: %w", key, err)
			}
			records = append(records, record{[]byte(key), value})
		}
		if len(records) >= perTransaction-3 || i == to-1 {
			if err := put(ctx, client, url, records); err != nil {
				return fmt.Errorf("writing to etcd: %w", err)
			}
			records = records[:0]
		}
	}
	return run.Until(ctx, arrived, func(ctx context.Context) error {
		last := to - 1
		_, err := r.kube.CoreV1().Services(namespaceName(last)).Get(ctx, serviceName(last), metav1.GetOptions{ResourceVersion: "0"})
		return err
	})
}

// clusterIP is in the lab's range, 10.96.0.0/12.
func clusterIP(n int) string { return fmt.Sprintf("10.%d.%d.%d", 100+n>>16, n>>8&0xff, n&0xff) }

// stored are the objects of a service, by their keys in etcd.
func stored(i int, ip string) map[string]runtime.Object {
	service, slice := objects(i)
	service.Spec.ClusterIP, service.Spec.ClusterIPs = ip, []string{ip}
	service.Spec.Type, service.Spec.SessionAffinity = corev1.ServiceTypeClusterIP, corev1.ServiceAffinityNone
	service.Spec.IPFamilies, service.Spec.IPFamilyPolicy = []corev1.IPFamily{corev1.IPv4Protocol}, new(corev1.IPFamilyPolicySingleStack)
	service.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster)
	port := &service.Spec.Ports[0]
	port.Protocol, port.TargetPort.IntVal = corev1.ProtocolTCP, port.Port
	address := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelIPAddressFamily: "IPv4", networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: service.Namespace, Name: service.Name}},
	}
	slice.Generation = 1
	for n, meta := range []*metav1.ObjectMeta{&service.ObjectMeta, &slice.ObjectMeta, &address.ObjectMeta} {
		meta.UID, meta.CreationTimestamp = types.UID(fmt.Sprintf("%08x-0000-4000-9000-%012x", n, i)), metav1.Now()
	}
	return map[string]runtime.Object{
		"/registry/services/specs/" + service.Namespace + "/" + service.Name: service,
		"/registry/endpointslices/" + slice.Namespace + "/" + slice.Name:     slice,
		"/registry/ipaddresses/" + ip:                                        address,
	}
}

// encode makes what the API server stores: protobuf, of the version it stores.
func encode(o runtime.Object) ([]byte, error) {
	version := corev1.SchemeGroupVersion
	switch o.(type) {
	case *discoveryv1.EndpointSlice:
		version = discoveryv1.SchemeGroupVersion
	case *networkingv1.IPAddress:
		version = networkingv1.SchemeGroupVersion
	}
	encoder := scheme.Codecs.EncoderForVersion(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), schema.GroupVersions{version})
	return runtime.Encode(encoder, o)
}

// put writes records in one transaction, by etcd's JSON gateway.
func put(ctx context.Context, client *http.Client, url string, records []record) error {
	var transaction struct {
		Success []map[string]record `json:"success"`
	}
	for _, one := range records {
		transaction.Success = append(transaction.Success, map[string]record{"requestPut": one})
	}
	body, err := json.Marshal(transaction)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Succeeded bool   `json:"succeeded"`
		Error     string `json:"error"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if !answer.Succeeded {
		return errors.New(response.Status + ": " + answer.Error)
	}
	return nil
}

// etcd is where the API server has its data, and the credentials it uses there, by its own flags.
func (r *rig) etcd() (url string, config *tls.Config, err error) {
	p, _ := r.lab.Process(lab.KindAPIServer)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID()))
	if err != nil {
		return "", nil, fmt.Errorf("finding etcd: %w", err)
	}
	flags := map[string]string{}
	for argument := range strings.SplitSeq(string(data), "\x00") {
		if name, value, ok := strings.Cut(argument, "="); ok {
			flags[strings.TrimPrefix(name, "--")] = value
		}
	}
	certificate, err := tls.LoadX509KeyPair(flags["etcd-certfile"], flags["etcd-keyfile"])
	if err != nil {
		return "", nil, fmt.Errorf("loading the API server's certificate for etcd: %w", err)
	}
	roots, err := pki.LoadPool(flags["etcd-cafile"])
	if err != nil {
		return "", nil, err
	}
	url, _, _ = strings.Cut(flags["etcd-servers"], ",")
	return url, &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
