package replay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

// Names of the lab processes that this package adds.
const (
	processGate       = "gate"
	processBreakGlass = "break-glass"
)

// gateDoor is the gate and its break-glass lane in front of a lab: the same executable as this one, configured with
// files as an operator would write them, and with what ships as defaults.
type gateDoor struct {
	executable string
	layers     Layers

	mu     sync.Mutex
	config v1alpha1.GateConfiguration
	file   string
	lane   string // the break-glass lane's URL
}

// open starts both processes and returns the URL of the standard lane.
func (g *gateDoor) open(ctx context.Context, l *lab.Lab) (url, caFile string, err error) {
	dir := filepath.Join(l.Dir(), "gate")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("making the gate's folder: %w", err)
	}
	standard, err := address(l)
	if err != nil {
		return "", "", err
	}
	lane, err := address(l)
	if err != nil {
		return "", "", err
	}
	pki := l.PKI()
	upstreams := []v1alpha1.GateUpstream{{Name: "kube-apiserver", URL: l.APIServerURL(0), CAFile: l.CAFile()}}
	g.file = filepath.Join(dir, "gate.yaml")
	socket := filepath.Join(dir, "admin.sock")
	g.config = v1alpha1.GateConfiguration{
		TypeMeta:  v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindGateConfiguration},
		Listen:    v1alpha1.GateListen{Address: standard, CertFile: pki.ServingCert, KeyFile: pki.ServingKey},
		Upstreams: upstreams,
		Identity: v1alpha1.GateIdentity{
			ClientCAFile: pki.ClusterCA, ProxyCertFile: pki.FrontProxyCert, ProxyKeyFile: pki.FrontProxyKey,
			ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{lab.ServiceAccountIssuer}, KeyFiles: []string{pki.ServiceAccountKey}},
		},
		Admin:    v1alpha1.GateAdmin{Socket: socket},
		StateDir: filepath.Join(dir, "state"),
	}
	g.layers.configure(&g.config)
	if err := os.MkdirAll(g.config.StateDir, 0o700); err != nil {
		return "", "", fmt.Errorf("making the gate's folder: %w", err)
	}
	if err := writeYAML(g.file, g.config); err != nil {
		return "", "", err
	}
	laneFile := filepath.Join(dir, "break-glass.yaml")
	if err := writeYAML(laneFile, v1alpha1.BreakGlassConfiguration{
		TypeMeta:      v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBreakGlassConfiguration},
		Listen:        v1alpha1.BreakGlassListen{Address: lane, CertFile: pki.ServingCert, KeyFile: pki.ServingKey, ClientCAFile: pki.BreakGlassCA},
		Upstreams:     upstreams,
		Identity:      v1alpha1.BreakGlassIdentity{ProxyCertFile: pki.FrontProxyCert, ProxyKeyFile: pki.FrontProxyKey},
		StandardGates: []string{socket},
		AuditFile:     filepath.Join(dir, "break-glass-audit.log"),
	}); err != nil {
		return "", "", err
	}
	for _, spec := range []lab.ProcessSpec{
		{Name: processGate, Args: []string{"gate", "--config", g.file}, Ready: accepts(standard, l.CAFile())},
		{Name: processBreakGlass, Args: []string{"break-glass", "serve", "--config", laneFile}, Ready: accepts(lane, l.CAFile())},
	} {
		spec.Path, spec.Restart = g.executable, true
		if _, err := l.Run(ctx, spec); err != nil {
			return "", "", err
		}
	}
	g.lane = "https://" + lane
	return "https://" + standard, l.CAFile(), nil
}

// addUpstream puts one more API server behind the gate, which reads its file again by itself.
func (g *gateDoor) addUpstream(url, caFile string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := "kube-apiserver-" + strconv.Itoa(len(g.config.Upstreams))
	g.config.Upstreams = append(g.config.Upstreams, v1alpha1.GateUpstream{Name: name, URL: url, CAFile: caFile})
	return writeYAML(g.file, g.config)
}

func address(l *lab.Lab) (string, error) {
	port, err := l.NextPort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}

func writeYAML(file string, object any) error {
	data, err := yaml.Marshal(object)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", file, err)
	}
	if err := renameio.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// accepts says that a TLS server with a certificate of the CA listens; what it thinks of clients is not asked.
func accepts(address, caFile string) func(context.Context) error {
	return func(ctx context.Context) error {
		data, err := os.ReadFile(caFile)
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(data)
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}
