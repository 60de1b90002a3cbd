package analysis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/rollout/bake"
)

// Caches reads the DNS configurations in these ConfigMaps, namespace/name, and says how long their caches may answer from what
// they have. A ConfigMap that does not exist is passed over. unread are parts of them that are elsewhere, as files that they
// import and are not keys of the same ConfigMap: what is in those must be declared.
func Caches(ctx context.Context, client kubernetes.Interface, names []string) (ttls []bake.TTL, unread []string, err error) {
	for _, name := range names {
		namespace, object, _ := strings.Cut(name, "/")
		m, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, object, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading the DNS configuration %s: %w", name, err)
		}
		for _, key := range slices.Sorted(maps.Keys(m.Data)) {
			found, missing, err := bake.Corefile(name, m.Data[key])
			if err != nil {
				return nil, nil, fmt.Errorf("key %s: %w", key, err)
			}
			ttls = append(ttls, found...)
			for _, one := range missing {
				unread = append(unread, name+": "+one)
			}
		}
	}
	return ttls, unread, nil
}
