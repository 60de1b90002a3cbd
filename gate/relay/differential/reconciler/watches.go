package main

import (
	"context"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
)

// retryAfter is how long after a conflict, in which time the cache learns of the write that came first.
const retryAfter = 50 * time.Millisecond

// ofSameSource asks for a ConfigMap to be reconciled when its Lease changes, or goes. Not by owner references: the garbage
// collector would take the Lease away by itself, and hide a reconciler that was never told of the ConfigMap's end.
func ofSameSource(name string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, lease client.Object) []ctrl.Request {
		source, ours := strings.CutPrefix(lease.GetName(), name+"-")
		if !ours {
			return nil
		}
		return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: lease.GetNamespace(), Name: source}}}
	})
}
