package lab

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
)

// kwokConfig is KWOK's configuration; LOGS stands for the log file of all containers.
//
//go:embed kwok.yaml
var kwokConfig string

// containerLog is what `kubectl logs` of any simulated container shows, in the form container runtimes write.
const containerLog = "2024-12-11T15:12:00.000000000Z stdout F this container is simulated: it runs nothing\n"

// leaseSeconds is the duration of a node's lease, the kubelet's default; KWOK renews each quarter of it, as kubelets do.
const leaseSeconds = 40

// specKWOK is all nodes' kubelets. It listens where the nodes' kubelets are said to, for logs, exec and port-forward.
func (l *Lab) specKWOK(kubeconfig string) (ProcessSpec, error) {
	logs := filepath.Join(l.options.Dir, "container.log")
	if err := os.WriteFile(logs, []byte(containerLog), 0o600); err != nil {
		return ProcessSpec{}, fmt.Errorf("writing containers' log: %w", err)
	}
	config := filepath.Join(l.options.Dir, "kwok.yaml")
	if err := renameio.WriteFile(config, []byte(strings.ReplaceAll(kwokConfig, "LOGS", strconv.Quote(logs))), 0o600); err != nil {
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
