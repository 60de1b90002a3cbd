package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
)

// rolled is a `seakeep rollout run` over both labs.
type rolled struct {
	// running ends with the process.
	running context.Context
	command *exec.Cmd
	stdout  bytes.Buffer
	stderr  bytes.Buffer
	ended   chan struct{}
}

// rollOut starts one, from the text of a Rollout whose stages select by the label stage: the cluster of the changes is first, the
// other one second; with more flags. It ends when the change is everywhere, taken back, or waits for a human, and at the latest with ctx.
func (r *labRig) rollOut(ctx context.Context, seakeep, dir string, rollout []byte, flags ...string) (*rolled, error) {
	// The rig's own flow schema would come before the rollout's.
	if err := r.big.client.FlowcontrolV1().FlowSchemas().Delete(ctx, schema, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fleet := v1alpha1.Fleet{TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindFleet}, Name: "labs"}
	for _, one := range []struct {
		name, stage string
		*world
	}{{"big", "first", r.big}, {"small", "second", r.small}} {
		kubeconfig := one.name + ".kubeconfig"
		if err := one.lab.WriteKubeconfig(filepath.Join(dir, kubeconfig), lab.Masters, "", ""); err != nil {
			return nil, err
		}
		fleet.Clusters = append(fleet.Clusters, v1alpha1.FleetCluster{Name: one.name, Labels: map[string]string{"stage": one.stage}, Kubeconfig: kubeconfig, DNS: one.dns.ClusterAddrs})
	}
	text, err := yaml.Marshal(fleet)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "rollout.yaml")
	if err := os.WriteFile(file, bytes.Join([][]byte{text, rollout}, []byte("---\n")), 0o600); err != nil {
		return nil, err
	}
	if seakeep, err = filepath.Abs(seakeep); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	o := &rolled{running: running, ended: make(chan struct{})}
	args := []string{"rollout", "run", "-f", file, "--state-dir", filepath.Join(dir, "state"), "--exit-on-pause", "-o", "json"}
	o.command = exec.CommandContext(ctx, seakeep, append(args, flags...)...)
	o.command.Dir, o.command.Stdout, o.command.Stderr = dir, &o.stdout, &o.stderr
	o.command.Cancel = func() error { return o.command.Process.Signal(os.Interrupt) }
	o.command.WaitDelay = 20 * time.Second
	if err := o.command.Start(); err != nil {
		stop()
		return nil, err
	}
	go func() {
		defer close(o.ended)
		defer stop()
		_ = o.command.Wait() // its code says what its view says
	}()
	return o, nil
}

// wait waits for the process's end, and returns how the run stands.
func (o *rolled) wait() (view engine.View, err error) {
	<-o.ended
	if err := json.Unmarshal(o.stdout.Bytes(), &view); err != nil {
		return view, fmt.Errorf("the rollout printed no run: %w: %s", err, o.stderr.String())
	}
	return view, nil
}
