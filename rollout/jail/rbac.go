package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// cutKey is the annotation of a binding that was cut: what its subjects were, and for which rollout. It is on the object itself, so
// that whoever comes after a process that died, or a person, can put them back.
const cutKey = "seakeep.dev/rollout-cut"

// fieldManager signs what is written.
const fieldManager = "seakeep-rollout"

// RBAC takes the component's service account out of the bindings that name it. Its requests are then answered 403, which costs
// the API server next to nothing; open watches go on until they are renewed. Rights that come from a group, as
// system:serviceaccounts, are not touched: others have them too.
type RBAC struct{ Client kubernetes.Interface }

// cut is what the annotation holds.
type cut struct {
	Rollout  string           `json:"rollout"`
	Subjects []rbacv1.Subject `json:"subjects"`
}

// binding is a RoleBinding or a ClusterRoleBinding.
type binding struct {
	namespace, name string // no namespace: a ClusterRoleBinding
	meta            *metav1.ObjectMeta
	subjects        *[]rbacv1.Subject
	update          func(ctx context.Context, o metav1.UpdateOptions) error
}

func (b binding) String() string {
	if b.namespace == "" {
		return "ClusterRoleBinding " + b.name
	}
	return "RoleBinding " + b.namespace + "/" + b.name
}

// Name implements Rung.
func (RBAC) Name() string { return string(v1alpha1.RungRBAC) }

// HitsStable implements Rung: both revisions run under one service account.
func (RBAC) HitsStable() bool { return true }

// ReducesLoad implements Rung.
func (RBAC) ReducesLoad() bool { return true }

func (r RBAC) bindings(ctx context.Context) ([]binding, error) {
	var all []binding
	// From the API server's cache: this runs when it has little to give.
	cluster, err := r.Client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("listing ClusterRoleBindings: %w", err)
	}
	for i := range cluster.Items {
		all = append(all, r.ofCluster(&cluster.Items[i]))
	}
	local, err := r.Client.RbacV1().RoleBindings("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("listing RoleBindings: %w", err)
	}
	for i := range local.Items {
		all = append(all, r.ofNamespace(&local.Items[i]))
	}
	return all, nil
}

func (r RBAC) ofCluster(b *rbacv1.ClusterRoleBinding) binding {
	return binding{name: b.Name, meta: &b.ObjectMeta, subjects: &b.Subjects, update: func(ctx context.Context, o metav1.UpdateOptions) error {
		_, err := r.Client.RbacV1().ClusterRoleBindings().Update(ctx, b, o)
		return err
	}}
}

func (r RBAC) ofNamespace(b *rbacv1.RoleBinding) binding {
	return binding{namespace: b.Namespace, name: b.Name, meta: &b.ObjectMeta, subjects: &b.Subjects, update: func(ctx context.Context, o metav1.UpdateOptions) error {
		_, err := r.Client.RbacV1().RoleBindings(b.Namespace).Update(ctx, b, o)
		return err
	}}
}

// get reads a binding anew, from etcd.
func (r RBAC) get(ctx context.Context, b binding) (binding, error) {
	if b.namespace == "" {
		found, err := r.Client.RbacV1().ClusterRoleBindings().Get(ctx, b.name, metav1.GetOptions{})
		if err != nil {
			return b, err
		}
		return r.ofCluster(found), nil
	}
	found, err := r.Client.RbacV1().RoleBindings(b.namespace).Get(ctx, b.name, metav1.GetOptions{})
	if err != nil {
		return b, err
	}
	return r.ofNamespace(found), nil
}

// names says whether a subject is the service account, written as one or as the user it is.
func names(s rbacv1.Subject, serviceAccount string) bool {
	namespace, name, _ := strings.Cut(serviceAccount, "/")
	return s.Kind == rbacv1.ServiceAccountKind && s.Namespace == namespace && s.Name == name ||
		s.Kind == rbacv1.UserKind && s.Name == "system:serviceaccount:"+namespace+":"+name
}

// without takes the service account out; false when it is not in.
func (b binding) without(c Component) (bool, error) {
	rest := slices.DeleteFunc(slices.Clone(*b.subjects), func(s rbacv1.Subject) bool { return names(s, c.ServiceAccount) })
	if len(rest) == len(*b.subjects) {
		return false, nil
	}
	// Cut before, and somebody put it back: what it was before the first cut stays.
	if _, ok := b.meta.Annotations[cutKey]; !ok {
		was, err := json.Marshal(cut{Rollout: c.Rollout, Subjects: *b.subjects})
		if err != nil {
			return false, err
		}
		if b.meta.Annotations == nil {
			b.meta.Annotations = map[string]string{}
		}
		b.meta.Annotations[cutKey] = string(was)
	}
	if len(rest) == 0 {
		rest = nil
	}
	*b.subjects = rest
	return true, nil
}

// Prove implements Rung: the API server checks each cut, with the right to change a binding without having its role, and stores
// none.
func (r RBAC) Prove(ctx context.Context, c Component) error {
	n, err := r.cut(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("no binding names the service account %s: its rights come from a group, and there is nothing to cut", c.ServiceAccount)
	}
	return nil
}

// Do implements Rung. It does not end by itself: Undo must be called.
func (r RBAC) Do(ctx context.Context, c Component, _ string, _ time.Duration) error {
	_, err := r.cut(ctx, c, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

func (r RBAC) cut(ctx context.Context, c Component, o metav1.UpdateOptions) (n int, err error) {
	if err := ownAccount(c); err != nil {
		return 0, err
	}
	all, err := r.bindings(ctx)
	if err != nil {
		return 0, err
	}
	err = r.change(ctx, all, "taking "+c.ServiceAccount+" out of", o, func(b binding) bool {
		return slices.ContainsFunc(*b.subjects, func(s rbacv1.Subject) bool { return names(s, c.ServiceAccount) })
	}, func(fresh binding) (bool, error) {
		changed, err := fresh.without(c)
		if err == nil && changed {
			n++
		}
		return changed, err
	})
	return n, err
}

// change changes the bindings that are concerned, each as it is by then; one that is gone needs nothing.
func (r RBAC) change(ctx context.Context, all []binding, doing string, o metav1.UpdateOptions, concerned func(binding) bool, edit func(fresh binding) (changed bool, err error)) error {
	var errs []error
	for _, b := range all {
		if !concerned(b) {
			continue
		}
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			fresh, err := r.get(ctx, b)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			changed, err := edit(fresh)
			if err != nil || !changed {
				return err
			}
			return fresh.update(ctx, o)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s the %s: %w", doing, b, err))
		}
	}
	return errors.Join(errs...)
}

// Undo implements Rung. A binding whose other subjects somebody has changed since keeps those changes, and gets its own subject
// back; one that nobody touched is as it was, byte for byte.
func (r RBAC) Undo(ctx context.Context, c Component) error {
	all, err := r.bindings(ctx)
	if err != nil {
		return err
	}
	return r.change(ctx, all, "putting "+c.ServiceAccount+" back into", metav1.UpdateOptions{FieldManager: fieldManager}, func(b binding) bool {
		_, ok := b.meta.Annotations[cutKey]
		return ok
	}, func(fresh binding) (bool, error) { return fresh.restore(c) })
}

// restore puts the subjects back; false when the binding was cut for another rollout, or by hand.
func (b binding) restore(c Component) (bool, error) {
	text, ok := b.meta.Annotations[cutKey]
	if !ok {
		return false, nil
	}
	was, err := parseCut(text)
	if err != nil {
		return false, fmt.Errorf("its annotation %s: %w", cutKey, err)
	}
	if was.Rollout != c.Rollout {
		return false, nil
	}
	left := slices.DeleteFunc(slices.Clone(was.Subjects), func(s rbacv1.Subject) bool { return names(s, c.ServiceAccount) })
	if slices.Equal(left, *b.subjects) {
		*b.subjects = was.Subjects
	} else {
		for _, s := range was.Subjects {
			if names(s, c.ServiceAccount) && !slices.Contains(*b.subjects, s) {
				*b.subjects = append(*b.subjects, s)
			}
		}
	}
	delete(b.meta.Annotations, cutKey)
	if len(b.meta.Annotations) == 0 {
		b.meta.Annotations = nil
	}
	return true, nil
}

// maxCut bounds the annotation; Kubernetes' own limit for all of an object's is 256 KiB.
const maxCut = 256 << 10

// parseCut reads what anybody may have written.
func parseCut(text string) (cut, error) {
	var was cut
	if len(text) > maxCut {
		return was, fmt.Errorf("is longer than %d bytes", maxCut)
	}
	if err := json.Unmarshal([]byte(text), &was); err != nil {
		return was, fmt.Errorf("is not what was written there: %w", err)
	}
	if was.Rollout == "" || len(was.Subjects) == 0 {
		return was, errors.New("is not what was written there: it names no rollout or no subject")
	}
	return was, nil
}
