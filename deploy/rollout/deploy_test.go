// Package rollout holds what a hub cluster is given for Rollouts; its tests try every file on a real API server.
package rollout

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/lab"
)

const crd = "seakeep.dev_rollouts.yaml"

// Every manifest is accepted by a real API server, strictly.
func TestManifestsAreAccepted(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, "", ""); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{crd, "rbac.yaml", "controller.yaml", "kubefleet.yaml", "fleet.yaml"} {
		command := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", kubeconfig, "--cache-dir", t.TempDir(), "apply", "-f", file, "--server-side", "--validate=strict")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// account is the controller's.
const account = "system:serviceaccount:seakeep:seakeep-rollout"

// The controller's account may do what the controller does, and nothing that would make it more than that. Each is asked of a real
// authorizer as the account itself.
func TestRightsAreEnoughAndNoMore(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, "", ""); err != nil {
		t.Fatal(err)
	}
	apply := func(file string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", kubeconfig, "--cache-dir", t.TempDir(), "apply", "-f", file, "--server-side")
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	config := l.RESTConfig(lab.Masters)
	config.Impersonate = rest.ImpersonationConfig{UserName: account, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:seakeep", "system:authenticated"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	type right struct{ verbs, group, resource, name, namespace string }
	may := func(r right, want bool) {
		t.Helper()
		resource, sub, _ := strings.Cut(r.resource, "/")
		for verb := range strings.SplitSeq(r.verbs, " ") {
			review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: r.group, Resource: resource, Subresource: sub, Name: r.name, Namespace: r.namespace},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed != want {
				t.Errorf("%s may %s %s.%s %s in %q: %t, want %t", account, verb, r.resource, r.group, r.name, r.namespace, review.Status.Allowed, want)
			}
		}
	}
	const fleet, leases = "placement.kubernetes-fleet.io", "coordination.k8s.io"
	cluster := right{"list", fleet, "clusterapprovalrequests", "", ""}
	apply("rbac.yaml")
	may(cluster, false) // without kubefleet.yaml nothing is cluster-wide
	may(right{"list", fleet, "approvalrequests", "", "seakeep"}, false)
	secrets := right{"get list", "", "secrets", "", "clusters"}
	may(secrets, false)
	apply("kubefleet.yaml")
	apply("fleet.yaml")
	for _, r := range []right{
		{"get list watch update patch", "seakeep.dev", "rollouts", "", "seakeep"}, // the finalizer, and an order that is taken off
		{"update", "seakeep.dev", "rollouts/status", "", "seakeep"},
		{"create", leases, "leases", "", "seakeep"},
		{"get update", leases, "leases", "seakeep-rollout-controller", "seakeep"},
		{"create patch", "events.k8s.io", "events", "", "seakeep"},
		{"create patch", "", "events", "", "seakeep"},
		cluster,
		secrets,
		{"list", "multicluster.x-k8s.io", "clusterprofiles", "", "clusters"},
		{"update", fleet, "clusterapprovalrequests/status", "", ""},
		{"list", fleet, "approvalrequests", "", "seakeep"},
		{"update", fleet, "approvalrequests/status", "", "seakeep"},
	} {
		may(r, true)
	}
	for _, r := range []right{
		{"create delete deletecollection", "seakeep.dev", "rollouts", "", "seakeep"},
		{"get list watch update", "seakeep.dev", "rollouts", "", "default"},
		{"get list watch create", "", "secrets", "", "seakeep"},
		{"get", "", "secrets", "seakeep-fleet", "seakeep"}, // it is mounted
		{"watch create update delete", "", "secrets", "", "clusters"},
		{"get list create delete", "", "pods", "", "seakeep"},
		{"create", "", "pods/exec", "", "seakeep"},
		{"create", "", "serviceaccounts/token", "seakeep-rollout", "seakeep"},
		{"get update delete", leases, "leases", "another", "seakeep"},
		{"delete", leases, "leases", "seakeep-rollout-controller", "seakeep"},
		{"get update", leases, "leases", "kube-controller-manager", "kube-system"},
		{"create update", fleet, "clusterapprovalrequests", "", ""},
		{"delete patch", fleet, "clusterapprovalrequests", "x", ""},
		{"list", fleet, "approvalrequests", "", "default"},
		{"update", fleet, "approvalrequests/status", "", "default"},
		{"update", fleet, "clusterstagedupdateruns/status", "x", ""},
		{"list", "", "nodes", "", ""},
		{"create update bind escalate", "rbac.authorization.k8s.io", "roles", "", "seakeep"},
		{"impersonate", "", "users", "", ""},
		{"patch", "apps", "daemonsets", "", "seakeep"},
	} {
		may(r, false)
	}
}

// The CRD is what the Go types say: with other types it is generated anew.
func TestCRDIsCurrent(t *testing.T) {
	dir := t.TempDir()
	generator := filepath.Join(dir, "controller-gen")
	run := func(in, name string, args ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), name, args...)
		command.Dir = in
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	root := filepath.Join("..", "..")
	run(filepath.Join(root, "tools"), "go", "build", "-o", generator, "sigs.k8s.io/controller-tools/cmd/controller-gen")
	run(root, generator, "crd:allowDangerousTypes=true,crdVersions=v1", "paths=./api/hub", "output:crd:dir="+dir)
	want, err := os.ReadFile(filepath.Join(dir, crd))
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(crd)
	if err != nil || !bytes.Equal(want, have) {
		t.Errorf("%s is out of date (%v): run 'make generate'", crd, err)
	}
}
