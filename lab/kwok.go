package lab

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// kwokConfig is KWOK's configuration; see its first lines for what is filled in.
//
//go:embed kwok.yaml
var kwokConfig string

// kwokExecConfig is added to it with Options.Exec.
//
//go:embed kwok-exec.yaml
var kwokExecConfig string

// What `kubectl logs` of any simulated container shows, and with --previous, in the form container runtimes write.
const (
	containerLog = "2024-12-11T15:12:00.000000000Z stdout F this container is simulated: it runs nothing\n"
	previousLog  = "2024-12-11T15:11:00.000000000Z stderr F this container is simulated: it ended for no reason\n"
)

// leaseSeconds is the duration of a node's lease, the kubelet's default; KWOK renews each quarter of it, as kubelets do.
const leaseSeconds = 40

// containerFile names a file in the folder of what stands for all containers: what they say, and where commands run.
func (l *Lab) containerFile(name string) string {
	return filepath.Join(l.options.Dir, "container", name)
}

// AppendContainerLog lets every simulated container say a line now. Who follows a log, or is attached, gets it.
func (l *Lab) AppendContainerLog(line string) error {
	f, err := os.OpenFile(l.containerFile("log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("appending to the containers' log: %w", err)
	}
	// One write: a follower must not see half a line.
	_, err = fmt.Fprintf(f, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("appending to the containers' log: %w", err)
	}
	return nil
}

// makeContainers makes what stands for all containers, without what an older lab in this folder left.
func (l *Lab) makeContainers() error {
	if err := os.RemoveAll(l.containerFile("")); err != nil {
		return err
	}
	if err := os.MkdirAll(l.containerFile("work"), 0o700); err != nil {
		return err
	}
	for name, content := range map[string]string{"log": containerLog, "previous": previousLog} {
		if err := os.WriteFile(l.containerFile(name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// specKWOK is all nodes' kubelets. It listens where the nodes' kubelets are said to, for logs, attach, port-forward and,
// if asked for, exec.
func (l *Lab) specKWOK(kubeconfig string) (ProcessSpec, error) {
	if err := l.makeContainers(); err != nil {
		return ProcessSpec{}, fmt.Errorf("making the containers' folder: %w", err)
	}
	text := kwokConfig
	if l.options.Exec {
		text += kwokExecConfig
	}
	quoted := func(name string) string { return strconv.Quote(l.containerFile(name)) }
	text = strings.NewReplacer("LOG\n", quoted("log")+"\n", "PREVIOUS\n", quoted("previous")+"\n", "WORK\n", quoted("work")+"\n", "WORK}", quoted("work")+"}").Replace(text)
	config := filepath.Join(l.options.Dir, "kwok.yaml")
	if err := renameio.WriteFile(config, []byte(text), 0o600); err != nil {
		return ProcessSpec{}, fmt.Errorf("writing KWOK's configuration: %w", err)
	}
	args := []string{
		"--kubeconfig=" + kubeconfig, "--config=" + config, "--manage-all-nodes=true",
		"--node-ip=127.0.0.1", "--node-port=" + strconv.Itoa(l.kubeletPort), "--server-address=" + loopback(l.kubeletPort),
		"--tls-cert-file=" + l.pki.file("kubelet.crt"), "--tls-private-key-file=" + l.pki.file("kubelet.key"),
		"--node-lease-duration-seconds=" + strconv.Itoa(leaseSeconds), "--v=WARN",
	}
	return l.spec(KindKWOK, 0, args, l.healthz(l.kubeletPort)), nil
}
