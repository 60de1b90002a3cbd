// Package rollout holds what a hub cluster is given for Rollouts; its tests try every file on a real API server.
package rollout

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

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
	for _, file := range []string{crd, "rbac.yaml", "controller.yaml"} {
		command := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", kubeconfig, "--cache-dir", t.TempDir(), "apply", "-f", file, "--server-side", "--validate=strict")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
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
