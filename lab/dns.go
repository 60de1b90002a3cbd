package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/google/renameio/v2"
	"github.com/miekg/dns"
)

// DNSOptions describe the lab's DNS.
type DNSOptions struct {
	// TTL of the cluster's records, and the longest the node caches keep a positive answer; 1 s–1 h in whole seconds,
	// default 30 s. Denials are kept for 5 s or the TTL if that is less, as in a stock cluster.
	TTL time.Duration
	// Replicas of cluster DNS; 1–10, default 1.
	Replicas int
	// NodeCaches is the number of node-level caches.
	NodeCaches int
	// Plugin that answers for the cluster: "kubernetes" (default) is stock's; "seakeep" is ours, which keeps its data in the
	// lab's folder.
	Plugin string
	// Path of seakeep-dns; default: in the folder of binaries, or next to this executable.
	Path string
}

// DNS is the lab's DNS: cluster DNS, and caches in front of it as NodeLocal DNSCache puts them on nodes.
type DNS struct {
	ClusterAddrs []string   // host:port, UDP and TCP; one for each replica
	CacheAddrs   []string   // one for each node cache
	Cluster      []*Process // processes "dns", "dns-1", …
	Caches       *Process   // process "node-dns": one for all caches; nil without caches
}

// The plugins that can answer for the cluster; see DNSOptions.
const (
	PluginStock   = "kubernetes"
	PluginSeakeep = "seakeep"
)

// Domain is the cluster's DNS domain.
const Domain = "cluster.local"

// clusterCorefile is kubeadm's, on loopback, without a resolver for the world outside, which a lab has not. kubeadm's
// cache leaves the cluster's own names out too.
var clusterCorefile = template.Must(template.New("").Parse(`.:{{.Port}} {
    bind 127.0.0.1
    errors
    health 127.0.0.1:{{.HealthPort}} {
        lameduck 1s
    }
    ready 127.0.0.1:{{.ReadyPort}}
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl {{.TTL}}
        {{- if .Snapshots}}
        snapshot {{.Snapshots}}
        {{- end}}
    }
    prometheus 127.0.0.1:{{.MetricsPort}}
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    loadbalance
}
`))

// cacheCorefile is NodeLocal DNSCache's for the cluster's domain: its upstream is asked over TCP, so that one that ends is
// noticed at once. Where kube-proxy gives each connection to one of the replicas, forward chooses among them here, with
// its own health checks.
var cacheCorefile = template.Must(template.New("").Parse(`{{range .Ports}}.:{{.}} {
    bind 127.0.0.1
    errors
    cache {
        success 9984 {{$.TTL}}
        denial 9984 {{$.DenialTTL}}
    }
    forward . {{$.Upstreams}} {
        force_tcp
        max_concurrent 1000
    }
}
{{end}}`))

// StartDNS starts cluster DNS, reading Services through the front door, and the node caches in front of it.
func (l *Lab) StartDNS(ctx context.Context, o DNSOptions) (*DNS, error) {
	if o.TTL == 0 {
		o.TTL = 30 * time.Second
	}
	if o.TTL < time.Second || o.TTL > time.Hour || o.TTL%time.Second != 0 {
		return nil, fmt.Errorf("starting DNS: TTL must be 1s–1h in whole seconds, got %s", o.TTL)
	}
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Replicas < 0 || o.Replicas > 10 {
		return nil, fmt.Errorf("starting DNS: replicas must be 1–10, got %d", o.Replicas)
	}
	if o.Plugin == "" {
		o.Plugin = PluginStock
	}
	if o.Plugin != PluginStock && o.Plugin != PluginSeakeep {
		return nil, fmt.Errorf("starting DNS: plugin must be %s or %s, got %q", PluginStock, PluginSeakeep, o.Plugin)
	}
	if o.NodeCaches < 0 || o.NodeCaches > 1000 {
		return nil, fmt.Errorf("starting DNS: node caches must be 0–1000, got %d", o.NodeCaches)
	}
	path, err := l.dnsPath(o.Path)
	if err != nil {
		return nil, fmt.Errorf("starting DNS: %w", err)
	}
	d := &DNS{}
	for i := range o.Replicas {
		if err := l.startClusterDNS(ctx, d, i, path, o); err != nil {
			return nil, fmt.Errorf("starting DNS: %w", err)
		}
	}
	if o.NodeCaches == 0 {
		return d, nil
	}
	if err := l.startNodeCaches(ctx, d, path, o); err != nil {
		return nil, fmt.Errorf("starting node caches: %w", err)
	}
	return d, nil
}

func (l *Lab) startClusterDNS(ctx context.Context, d *DNS, i int, path string, o DNSOptions) error {
	name := instance(KindDNS, i)
	kubeconfig, err := l.componentKubeconfig(KindDNS, dnsServer)
	if err != nil {
		return err
	}
	var ports [4]int
	for i := range ports {
		if ports[i], err = l.ports.next(); err != nil {
			return err
		}
	}
	snapshots := ""
	if o.Plugin == PluginSeakeep {
		snapshots = filepath.Join(l.options.Dir, name+"-snapshots")
	}
	corefile, err := l.writeTemplate(name+".corefile", clusterCorefile, map[string]any{
		"Plugin": o.Plugin, "Snapshots": snapshots,
		"Port": ports[0], "HealthPort": ports[1], "ReadyPort": ports[2], "MetricsPort": ports[3],
		"Kubeconfig": kubeconfig, "TTL": int(o.TTL.Seconds()),
	})
	if err != nil {
		return err
	}
	addr, ready := loopback(ports[0]), "http://"+loopback(ports[2])+"/ready"
	process, err := l.Run(ctx, ProcessSpec{
		Name: name, Kind: KindDNS, Path: path, Args: append([]string{"-conf", corefile}, l.options.ExtraArgs[KindDNS]...), Restart: true,
		Bounds: l.options.Bounds[KindDNS],
		Ready: func(ctx context.Context) error {
			// It calls itself ready when its data is, which can be before it listens.
			return errors.Join(getOK(ctx, http.DefaultClient, ready), allAnswer(ctx, []string{addr}))
		},
	})
	d.ClusterAddrs, d.Cluster = append(d.ClusterAddrs, addr), append(d.Cluster, process)
	return err
}

func (l *Lab) startNodeCaches(ctx context.Context, d *DNS, path string, o DNSOptions) error {
	ports := make([]int, o.NodeCaches)
	for i := range ports {
		var err error
		if ports[i], err = l.ports.next(); err != nil {
			return err
		}
		d.CacheAddrs = append(d.CacheAddrs, loopback(ports[i]))
	}
	corefile, err := l.writeTemplate(KindNodeDNS+".corefile", cacheCorefile, map[string]any{
		"Ports": ports, "TTL": int(o.TTL.Seconds()), "DenialTTL": min(5, int(o.TTL.Seconds())), "Upstreams": strings.Join(d.ClusterAddrs, " "),
	})
	if err != nil {
		return err
	}
	d.Caches, err = l.Run(ctx, ProcessSpec{
		Name: KindNodeDNS, Path: path, Args: append([]string{"-conf", corefile}, l.options.ExtraArgs[KindNodeDNS]...), Restart: true,
		Bounds: l.options.Bounds[KindNodeDNS],
		Ready:  func(ctx context.Context) error { return allAnswer(ctx, d.CacheAddrs) },
	})
	return err
}

// reloaded is what CoreDNS writes when it runs with what it has read again.
const reloaded = "Reloading complete"

// Reload makes a DNS server read its configuration again, and returns when it has. Its caches are empty then; its sockets
// stay, so that no query is lost.
func (p *Process) Reload(ctx context.Context) error {
	before, err := os.Stat(p.LogFile())
	if err == nil {
		err = p.Signal(syscall.SIGUSR1)
	}
	if err != nil {
		return fmt.Errorf("reloading %s: %w", p.Name, err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile(p.LogFile())
		if err != nil {
			return fmt.Errorf("reloading %s: %w", p.Name, err)
		}
		if bytes.Contains(log[min(before.Size(), int64(len(log))):], []byte(reloaded)) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("reloading %s: %w; its log is %s", p.Name, context.Cause(ctx), p.LogFile())
		}
	}
}

// allAnswer wants any answer from each DNS server: they begin to listen one after the other.
func allAnswer(ctx context.Context, addrs []string) error {
	query := new(dns.Msg)
	query.SetQuestion(Domain+".", dns.TypeSOA)
	for _, addr := range addrs {
		if _, _, err := new(dns.Client).ExchangeContext(ctx, query, addr); err != nil {
			return fmt.Errorf("asking DNS server %s: %w", addr, err)
		}
	}
	return nil
}

func (l *Lab) writeTemplate(name string, t *template.Template, data any) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("writing %s: %w", name, err)
	}
	file := filepath.Join(l.options.Dir, name)
	if err := renameio.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("writing %s: %w", name, err)
	}
	return file, nil
}

func (l *Lab) dnsPath(path string) (string, error) {
	candidates := []string{path}
	if path == "" {
		candidates = []string{filepath.Join(l.binDir, "seakeep-dns")}
		if executable, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(executable), "seakeep-dns"))
		}
		if bin, err := FindBinDir(""); err == nil {
			candidates = append(candidates, filepath.Join(bin, "seakeep-dns"))
		}
	}
	for _, candidate := range candidates {
		if info, err := os.Stat(candidate); err == nil && !info.IsDir() {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("%w: seakeep-dns is at none of %s; make it with 'make build'", ErrNoBinaries, strings.Join(candidates, ", "))
}
