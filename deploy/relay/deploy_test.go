// Package relay holds what a cluster is given for a gate's relay; its tests try every file on a real API server.
package relay

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/lab"
)

// Every manifest is created in a real API server, strictly, and what it made of each is what was written. The rights are
// what the relay uses, and no more; that they are enough the relay's own tests show, which run with these and no others.
func TestManifestsAreAccepted(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) (string, error) {
		args = append([]string{"--kubeconfig", kubeconfig, "--cache-dir", t.TempDir()}, args...)
		out, err := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), args...).CombinedOutput()
		return string(out), err
	}
	for _, file := range []string{"rbac.yaml", "flowschema.yaml"} {
		if out, err := kubectl("apply", "-f", file, "--server-side", "--validate=strict"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := kubectl("diff", "-f", file, "--server-side"); err != nil {
			t.Errorf("what is there differs from what was written: %v: %s", err, out)
		}
	}
	if out, err := kubectl("delete", "clusterrolebinding", "seakeep-lab:seakeep:relay"); err != nil { // which lets it read all
		t.Fatalf("%v: %s", err, out)
	}
	for what, want := range map[string]string{
		"create tokenreviews.authentication.k8s.io": "yes", "create subjectaccessreviews.authorization.k8s.io": "yes",
		"list apiservices.apiregistration.k8s.io": "yes", "get namespaces/kube-system": "yes",
		"list services": "yes", "watch services": "yes", "list nodes": "yes", "watch endpointslices.discovery.k8s.io": "yes",
		"list secrets": "no", "get secrets": "no", "watch secrets": "no", "list configmaps": "no", "list namespaces": "no", "get namespaces/default": "no",
		"patch services": "no", "delete nodes": "no", "update nodes/status": "no", "create pods": "no", "create serviceaccounts/token": "no",
		"impersonate users": "no", "list clusterroles.rbac.authorization.k8s.io": "no", "get nodes/proxy": "no",
	} {
		out, _ := kubectl(append([]string{"auth", "can-i", "--as", "seakeep:relay", "-A"}, strings.Fields(what)...)...)
		if lines := strings.Fields(out); len(lines) == 0 || lines[len(lines)-1] != want {
			t.Errorf("may it %s: %s, want %s", what, out, want)
		}
	}
}
