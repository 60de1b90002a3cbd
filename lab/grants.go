package lab

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// grants are the roles the lab adds to the built-in ones, by the user that gets them.
var grants = map[Identity][]rbacv1.PolicyRule{
	kubelets: {
		rule("", []string{"nodes", "nodes/status", "pods", "pods/status"}, "get", "list", "watch", "create", "update", "patch", "delete"),
		rule("coordination.k8s.io", []string{"leases"}, "get", "list", "watch", "create", "update", "patch", "delete"),
		rule("", []string{"events"}, "create", "patch", "update"),
		{NonResourceURLs: []string{"/openapi/*", "/api", "/api/*", "/apis", "/apis/*"}, Verbs: []string{"get"}},
	},
	agentRunner: {
		rule("", []string{"pods"}, "get", "list", "watch"),
		rule("apps", []string{"daemonsets"}, "get", "list", "watch"),
		rule("", []string{"serviceaccounts/token"}, "create"),
	},
	// As the ClusterRole system:coredns of kubeadm.
	dnsServer: {
		rule("", []string{"endpoints", "services", "pods", "namespaces"}, "list", "watch"),
		rule("discovery.k8s.io", []string{"endpointslices"}, "list", "watch"),
	},
	// What a gate reads for others, and whom it may ask about them: in a lab, of every resource.
	User("seakeep:relay"): {
		rule("*", []string{"*"}, "get", "list", "watch"),
		rule("authentication.k8s.io", []string{"tokenreviews"}, "create"),
		rule("authorization.k8s.io", []string{"subjectaccessreviews"}, "create"),
	},
	// What a gate reads of the cluster for its own policies.
	User("seakeep:policy"): {
		rule("", []string{"nodes", "serviceaccounts"}, "list"),
		rule("apps", []string{"daemonsets", "deployments", "statefulsets"}, "list"),
		rule("admissionregistration.k8s.io", []string{"validatingwebhookconfigurations", "mutatingwebhookconfigurations"}, "list"),
		rule("apiregistration.k8s.io", []string{"apiservices"}, "list"),
		rule("", []string{"services", "pods"}, "list"),
		{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}},
	},
	// What the API server needs of kubelets, for logs and exec; kubeadm puts this user into system:masters.
	User("kube-apiserver-kubelet-client"): {
		rule("", []string{"nodes/proxy", "nodes/stats", "nodes/log", "nodes/metrics"}, "*"),
	},
}

func rule(group string, resources []string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}

// grant gives the lab's users their roles. It is repeatable.
func (l *Lab) grant(ctx context.Context) error {
	bind := func(role, user string) error {
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "seakeep-lab:" + user},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		}
		_, err := l.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
		return ignoreExists(err)
	}
	if err := bind("cluster-admin", AdminUser); err != nil {
		return fmt.Errorf("granting cluster-admin to %s: %w", AdminUser, err)
	}
	for id, rules := range grants {
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "seakeep-lab:" + id.user}, Rules: rules}
		_, err := l.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})
		if err := ignoreExists(err); err != nil {
			return fmt.Errorf("making role of %s: %w", id, err)
		}
		if err := bind(role.Name, id.user); err != nil {
			return fmt.Errorf("granting role to %s: %w", id, err)
		}
	}
	return nil
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
