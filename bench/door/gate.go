package door

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

// Gate is a gate's process.
type Gate struct {
	// URL is where it listens.
	URL string
	// Socket is that of its admin endpoint.
	Socket string
	// Metrics is where it tells its metrics, if its configuration says so.
	Metrics string
}

// StartGate starts the gate of a lab's first API server: as shipped, but for what change changes in its configuration.
func StartGate(ctx context.Context, l *lab.Lab, spec lab.ProcessSpec, change func(*v1alpha1.GateConfiguration)) (*Gate, error) {
	address, err := Address(l)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(l.Dir(), spec.Name)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		return nil, fmt.Errorf("making the gate's folder: %w", err)
	}
	keys := l.PKI()
	g := &Gate{Socket: filepath.Join(dir, "admin.sock")}
	config := v1alpha1.GateConfiguration{
		TypeMeta:  v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindGateConfiguration},
		Listen:    v1alpha1.GateListen{Address: address, CertFile: keys.ServingCert, KeyFile: keys.ServingKey},
		Upstreams: []v1alpha1.GateUpstream{{Name: "kube-apiserver", URL: l.APIServerURL(0), CAFile: l.CAFile()}},
		Identity: v1alpha1.GateIdentity{
			ClientCAFile: keys.ClusterCA, ProxyCertFile: keys.FrontProxyCert, ProxyKeyFile: keys.FrontProxyKey,
			ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{lab.ServiceAccountIssuer}, KeyFiles: []string{keys.ServiceAccountKey}},
		},
		Admin:    v1alpha1.GateAdmin{Socket: g.Socket},
		StateDir: filepath.Join(dir, "state"),
	}
	change(&config)
	if config.Listen.MetricsAddress != "" {
		g.Metrics = "http://" + config.Listen.MetricsAddress + "/metrics"
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encoding the gate's configuration: %w", err)
	}
	file := filepath.Join(dir, "gate.yaml")
	if err := renameio.WriteFile(file, data, 0o600); err != nil {
		return nil, fmt.Errorf("writing the gate's configuration: %w", err)
	}
	spec.Args = []string{"gate", "--config", file}
	g.URL, err = Start(ctx, l, address, spec)
	return g, err
}

// Ask asks the gate's admin endpoint.
func (g *Gate) Ask(ctx context.Context, path string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", g.Socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gate"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the gate's admin endpoint: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking the gate's admin endpoint for %s: %s", path, response.Status)
	}
	return body, err
}

// Profile takes the gate's CPU profile while load runs, from when that says that it has begun. Load must go on for a
// second longer.
func (g *Gate) Profile(ctx context.Context, during time.Duration, load func(begun func()) error) ([]byte, error) {
	type answer struct {
		data []byte
		err  error
	}
	got := make(chan answer, 1)
	err := load(func() {
		go func() {
			data, err := g.Ask(ctx, "/debug/pprof/profile?seconds="+strconv.Itoa(int(during.Seconds())))
			got <- answer{data, err}
		}()
	})
	if err != nil {
		return nil, err
	}
	a := <-got
	if a.err != nil {
		return nil, fmt.Errorf("profiling: %w", a.err)
	}
	return a.data, nil
}

// Heap is the gate's heap profile, after a garbage collection.
func (g *Gate) Heap(ctx context.Context) ([]byte, error) { return g.Ask(ctx, "/debug/pprof/heap?gc=1") }

// Memory is what is in use, in bytes.
type Memory struct{ Heap, Stacks int64 }

// Memory collects the gate's garbage and reads what is left.
func (g *Gate) Memory(ctx context.Context) (m Memory, err error) {
	text, err := g.Ask(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return m, err
	}
	return Memory{memStat(string(text), "HeapInuse"), memStat(string(text), "Stack")}, nil
}

// Goroutines is how many there are.
func (g *Gate) Goroutines(ctx context.Context) (int64, error) {
	text, err := g.Ask(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	_, total, _ := strings.Cut(string(text), "total ")
	total, _, _ = strings.Cut(total, "\n")
	n, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("counting the gate's goroutines: %w", err)
	}
	return n, nil
}

// memStat finds "# name = value" among the runtime's statistics.
func memStat(text, name string) int64 {
	_, after, _ := strings.Cut(text, "# "+name+" = ")
	end := strings.IndexAny(after, " \n")
	if end < 0 {
		return 0
	}
	v, err := strconv.ParseInt(after[:end], 10, 64)
	if err != nil {
		return 0
	}
	return v
}
