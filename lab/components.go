package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/internal/pki"
)

// member is one etcd member.
type member struct {
	name                              string
	clientPort, peerPort, metricsPort int
}

func instance(kind string, i int) string {
	if i == 0 {
		return kind
	}
	return kind + "-" + strconv.Itoa(i)
}

// specEtcd is one etcd member. It does not fsync: a lab does not survive a power cut, and a shared disk's latency
// would be measured instead of the control plane's.
func (l *Lab) specEtcd(i int) ProcessSpec {
	m := l.members[i]
	cluster := make([]string, len(l.members))
	for j, other := range l.members {
		cluster[j] = other.name + "=https://" + loopback(other.peerPort)
	}
	client, peer := "https://"+loopback(m.clientPort), "https://"+loopback(m.peerPort)
	metrics := "http://" + loopback(m.metricsPort)
	ca, cert, key := l.pki.file("etcd-ca.crt"), l.pki.file("etcd.crt"), l.pki.file("etcd.key")
	return l.spec(KindEtcd, i, []string{
		"--name=" + m.name,
		"--data-dir=" + l.etcdDir(i),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + strings.Join(cluster, ","), "--initial-cluster-state=new", "--initial-cluster-token=seakeep-lab",
		"--listen-metrics-urls=" + metrics,
		"--client-cert-auth", "--trusted-ca-file=" + ca, "--cert-file=" + cert, "--key-file=" + key,
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + ca, "--peer-cert-file=" + cert, "--peer-key-file=" + key,
		"--unsafe-no-fsync", "--quota-backend-bytes=" + strconv.Itoa(4<<30), "--log-level=warn",
	}, func(ctx context.Context) error { return getOK(ctx, http.DefaultClient, metrics+"/health") })
}

func (l *Lab) etcdDir(i int) string { return filepath.Join(l.options.Dir, instance(KindEtcd, i)) }

// auditPolicy logs every request once, when it has been answered, without bodies.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// specAPIServer is one API server, configured as kubeadm does, on loopback.
func (l *Lab) specAPIServer(i int) (ProcessSpec, error) {
	endpoints := make([]string, len(l.members))
	for j, m := range l.members {
		endpoints[j] = "https://" + loopback(m.clientPort)
	}
	if l.options.EtcdServers != nil {
		endpoints = l.options.EtcdServers(i, endpoints)
	}
	policy := filepath.Join(l.options.Dir, "audit-policy.yaml")
	if err := renameio.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return ProcessSpec{}, fmt.Errorf("writing audit policy: %w", err)
	}
	args := []string{
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(l.apiPorts[i]),
		// An API server refuses to announce a loopback address in the kubernetes Service, so it announces none.
		"--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file=" + l.pki.file("apiserver.crt"), "--tls-private-key-file=" + l.pki.file("apiserver.key"),
		"--client-ca-file=" + l.pki.ClientCA,
		"--etcd-servers=" + strings.Join(endpoints, ","), "--etcd-cafile=" + l.pki.file("etcd-ca.crt"),
		"--etcd-certfile=" + l.pki.file("apiserver-etcd.crt"), "--etcd-keyfile=" + l.pki.file("apiserver-etcd.key"),
		"--service-cluster-ip-range=10.96.0.0/12", "--allow-privileged=true",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=" + ServiceAccountIssuer,
		"--service-account-key-file=" + l.pki.ServiceAccountKey, "--service-account-signing-key-file=" + l.pki.ServiceAccountSigner,
		"--requestheader-client-ca-file=" + l.pki.FrontProxyCA,
		"--requestheader-allowed-names=" + aggregatorName + "," + FrontProxyName,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + l.pki.file("front-proxy.crt"), "--proxy-client-key-file=" + l.pki.file("front-proxy.key"),
		"--kubelet-client-certificate=" + l.pki.file("apiserver-kubelet.crt"), "--kubelet-client-key=" + l.pki.file("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + l.pki.ClusterCA, "--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file=" + policy, "--audit-log-path=" + l.AuditLog(i),
		"--audit-log-maxsize=200", "--audit-log-maxbackup=2",
	}
	server := l.APIServerURL(i)
	return l.spec(KindAPIServer, i, args, func(ctx context.Context) error { return getOK(ctx, l.probe, server+"/readyz") }), nil
}

// Controllers and scheduler may send as much as the API server takes: in a lab the API server is what is looked at.
var clientRate = []string{"--kube-api-qps=5000", "--kube-api-burst=10000"}

func (l *Lab) specControllerManager(kubeconfig string, port int) ProcessSpec {
	args := append([]string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
		"--use-service-account-credentials", "--leader-elect=false",
		"--root-ca-file=" + l.pki.ClusterCA, "--service-account-private-key-file=" + l.pki.ServiceAccountSigner,
		"--cluster-signing-cert-file=" + l.pki.ClusterCA, "--cluster-signing-key-file=" + l.pki.file("ca.key"),
		"--requestheader-client-ca-file=" + l.pki.FrontProxyCA,
		// Few workers: while one is busy, changes to the same object join, and fewer statuses are written.
		"--concurrent-deployment-syncs=1", "--concurrent-replicaset-syncs=4", "--concurrent-daemonset-syncs=2",
		// Pods of the lab become Ready in waves; without a pause each one rewrites its Service's EndpointSlice and Endpoints.
		"--endpointslice-updates-batch-period=1s", "--endpoint-updates-batch-period=1s",
	}, clientRate...)
	return l.spec(KindControllerManager, 0, args, l.healthz(port))
}

func (l *Lab) specScheduler(kubeconfig string, port int) ProcessSpec {
	args := append([]string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port), "--leader-elect=false",
	}, clientRate...)
	return l.spec(KindScheduler, 0, args, l.healthz(port))
}

// healthz is the readiness of a component that serves /healthz with a certificate of its own making.
func (l *Lab) healthz(port int) func(context.Context) error {
	return func(ctx context.Context) error { return getOK(ctx, l.blindProbe, "https://"+loopback(port)+"/healthz") }
}

// spec fills in what all components share.
func (l *Lab) spec(kind string, i int, args []string, ready func(context.Context) error) ProcessSpec {
	var env []string
	if kind != KindAPIServer {
		// Half the garbage collections, so that the cores are the API server's, which alone is measured and runs as stock.
		env = []string{"GOGC=200"}
	}
	return ProcessSpec{
		Name: instance(kind, i), Kind: kind, Path: filepath.Join(l.binDir, kind), Env: env,
		Args:  append(args, l.options.ExtraArgs[kind]...),
		Ready: ready, Restart: true, Bounds: l.options.Bounds[kind],
	}
}

// AuditLog is the file that API server i writes its audit log to: JSON lines at level Metadata, rotated at 200 MB with
// two older ones kept.
func (l *Lab) AuditLog(i int) string {
	return filepath.Join(l.options.Dir, "logs", instance("audit", i)+".log")
}

// probeClients are for readiness: one that verifies API servers and has the lab's certificate, and one for the
// components that make their own certificate at start.
func probeClients(p *PKI) (verified, blind *http.Client, err error) {
	pool, err := pki.LoadPool(p.ClusterCA)
	if err != nil {
		return nil, nil, err
	}
	pair, err := p.issue(Masters)
	if err != nil {
		return nil, nil, err
	}
	client := func(config *tls.Config) *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	}
	verified = client(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair.TLS()}})
	blind = client(&tls.Config{InsecureSkipVerify: true}) // loopback, and only the answer's status is used
	return verified, blind, nil
}

// getOK wants status 200.
func getOK(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// ErrNoBinaries is returned by FindBinDir when no folder has the control plane's binaries.
var ErrNoBinaries = errors.New("no control-plane binaries")

// binaries are what a lab needs in its folder of binaries.
var binaries = []string{KindEtcd, KindAPIServer, KindControllerManager, KindScheduler, KindKWOK}

// FindBinDir returns the folder of the control plane's binaries: dir if it is not empty; else $KUBEBUILDER_ASSETS if
// it has them; else bin/ in the working folder or in the nearest one above with it.
func FindBinDir(dir string) (string, error) {
	if dir != "" {
		if missing := missingIn(dir); len(missing) > 0 {
			return "", fmt.Errorf("%w in %s: missing %s", ErrNoBinaries, dir, strings.Join(missing, ", "))
		}
		return filepath.Abs(dir)
	}
	if assets := os.Getenv("KUBEBUILDER_ASSETS"); assets != "" && len(missingIn(assets)) == 0 {
		return filepath.Abs(assets)
	}
	at, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding control-plane binaries: %w", err)
	}
	for {
		if bin := filepath.Join(at, "bin"); len(missingIn(bin)) == 0 {
			return bin, nil
		}
		if filepath.Dir(at) == at {
			return "", fmt.Errorf("%w: neither $KUBEBUILDER_ASSETS nor bin/ has %s", ErrNoBinaries, strings.Join(binaries, ", "))
		}
		at = filepath.Dir(at)
	}
}

func missingIn(dir string) []string {
	var missing []string
	for _, name := range binaries {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() {
			missing = append(missing, name)
		}
	}
	return missing
}
