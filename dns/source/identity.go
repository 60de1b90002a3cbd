package source

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/seakeep/seakeep/dns/store"
)

// kubeSystem reads the namespace kube-system, whose UID is the cluster's; at least as new as the version if that is not
// empty. The role that kubeadm gives CoreDNS has list and watch and no get. Then it is the first event of a watch of this
// one object, which costs the server as little. It is no list, because a restart must not need any.
func (a *API) kubeSystem(ctx context.Context, version string) (*corev1.Namespace, error) {
	var ns corev1.Namespace
	request := a.get(store.Namespaces).Name(metav1.NamespaceSystem)
	if version != "" {
		request.Param("resourceVersion", version)
	}
	err := request.Do(ctx).Into(&ns)
	if err == nil || !apierrors.IsForbidden(err) {
		return &ns, err
	}
	options := metav1.ListOptions{FieldSelector: "metadata.name=" + metav1.NamespaceSystem, Watch: true, ResourceVersion: "0"}
	if version != "" {
		options.ResourceVersion, options.ResourceVersionMatch = version, metav1.ResourceVersionMatchNotOlderThan
		options.SendInitialEvents, options.AllowWatchBookmarks = new(true), true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := a.get(store.Namespaces).VersionedParams(&options, parameters).Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case e, more := <-stream.ResultChan():
		if !more {
			return nil, errors.New("the watch ended before it began")
		}
		if e.Type == watch.Error {
			return nil, apierrors.FromObject(e.Object)
		}
		if found, ok := e.Object.(*corev1.Namespace); ok && e.Type == watch.Added {
			return found, nil
		}
		return nil, fmt.Errorf("the namespace %s is not there", metav1.NamespaceSystem)
	}
}
