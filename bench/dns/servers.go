package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"text/template"
	"time"

	"github.com/google/renameio/v2"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/dns/export"
	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/lab"
)

// The contenders.
const (
	seakeepName = "seakeep"
	stockName   = "kubernetes"
	cacheName   = "kubernetes+cache"
	unboundName = "unbound"
)

// server is a DNS server that runs.
type server struct {
	contender string
	process   *lab.Process
	address   string
	pprof     string
	metrics   string
}

var corefile = template.Must(template.New("").Parse(`.:{{.Port}} {
    bind 127.0.0.1
    errors
    ready 127.0.0.1:{{.Ready}}
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
        {{- if .Snapshots}}
        snapshot {{.Snapshots}}
        {{- end}}
    }
    prometheus 127.0.0.1:{{.Metrics}}
    pprof 127.0.0.1:{{.Pprof}}
    {{- if .Cache}}
    cache 30
    {{- end}}
    loadbalance
}
`))

// coreDNS starts a CoreDNS, ours or stock, and does not wait for more than the process.
func (r *rig) coreDNS(ctx context.Context, contender, name string) (*server, error) {
	var ports [4]int
	for i := range ports {
		var err error
		if ports[i], err = r.port(); err != nil {
			return nil, err
		}
	}
	values := map[string]any{
		"Port": ports[0], "Ready": ports[1], "Metrics": ports[2], "Pprof": ports[3],
		"Kubeconfig": r.config, "Plugin": "kubernetes", "Cache": contender == cacheName, "Snapshots": "",
	}
	if contender == seakeepName {
		values["Plugin"], values["Snapshots"] = "seakeep", filepath.Join(r.dir, name+"-snapshots")
	}
	var text bytes.Buffer
	if err := corefile.Execute(&text, values); err != nil {
		return nil, fmt.Errorf("writing the Corefile of %s: %w", name, err)
	}
	file := filepath.Join(r.dir, name+".corefile")
	if err := renameio.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("writing the Corefile of %s: %w", name, err)
	}
	s := &server{contender: contender, address: loopback(ports[0]), pprof: loopback(ports[3]), metrics: loopback(ports[2])}
	var err error
	s.process, err = r.lab.Run(ctx, lab.ProcessSpec{Name: name, Path: r.options.program, Args: []string{"-conf", file}, Env: r.goCPUs()})
	if err != nil {
		return nil, err
	}
	return s, r.place(s)
}

// goCPUs keeps Go programs from thinking that they have the CPUs of others too.
func (r *rig) goCPUs() []string {
	return []string{"GOMAXPROCS=" + strconv.Itoa(max(1, runtime.NumCPU()/2))}
}

// place puts a server on the servers' CPUs.
func (r *rig) place(s *server) error { return r.cpus.Pin(s.process.PID(), r.cpus.Server) }

var unboundConfig = template.Must(template.New("").Parse(`server:
  interface: 127.0.0.1
  port: {{.Port}}
  do-daemonize: no
  use-syslog: no
  username: ""
  chroot: ""
  pidfile: ""
  directory: "{{.Dir}}"
  num-threads: {{.Threads}}
  so-reuseport: yes
  module-config: "iterator"
  access-control: 127.0.0.0/8 allow
remote-control:
  control-enable: no
auth-zone:
  name: cluster.local
  zonefile: "{{.Zone}}"
  for-downstream: yes
  for-upstream: no
`))

func (r *rig) unbound(ctx context.Context) (*server, error) {
	path, err := unbound.Find()
	if err != nil {
		return nil, err
	}
	zone, err := r.exportZone(ctx)
	if err != nil {
		return nil, err
	}
	port, err := r.port()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := unboundConfig.Execute(&text, map[string]any{"Port": port, "Dir": r.dir, "Zone": zone, "Threads": max(1, runtime.NumCPU()/2)}); err != nil {
		return nil, fmt.Errorf("writing unbound's configuration: %w", err)
	}
	file := filepath.Join(r.dir, "unbound.conf")
	if err := renameio.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("writing unbound's configuration: %w", err)
	}
	s := &server{contender: unboundName, address: loopback(port)}
	if s.process, err = r.lab.Run(ctx, lab.ProcessSpec{Name: unboundName, Path: path, Args: []string{"-d", "-c", file}}); err != nil {
		return nil, err
	}
	return s, r.place(s)
}

// exportZone writes the cluster's zone file, as seakeep-dns's data exports itself.
func (r *rig) exportZone(ctx context.Context) (file string, err error) {
	k, err := r.keeper(nil)
	if err != nil {
		return "", err
	}
	defer k.close()
	file = filepath.Join(r.dir, "cluster.zone")
	exporter, err := export.New(export.Options{
		Zone: "cluster.local", ZoneFile: file, TTL: 30 * time.Second, Data: k.Keeper, Clock: time.Now,
		Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return "", err
	}
	if err := run.Until(ctx, time.Minute, k.live); err != nil {
		return "", err
	}
	inner, cancel := context.WithCancel(ctx)
	cancel()
	exporter.Run(inner) // which writes what there is, and ends
	return file, nil
}

// instance is a DNS server's data without its sockets.
type instance struct {
	*keeper.Keeper
	stop func()
	done chan struct{}
}

func (i *instance) close() {
	i.stop()
	<-i.done
}

// live wants the data to be that of the API server, now.
func (i *instance) live(context.Context) error {
	if s := i.Status(); s.State != keeper.Live {
		return errors.New("the data is " + string(s.State))
	}
	return nil
}

// keeper starts the data of a DNS server, with a connection of its own. wrap may look at what is asked of the source;
// before it runs, prepare may give it a snapshot.
func (r *rig) keeper(with func(*keeper.Options)) (*instance, error) {
	config := r.lab.RESTConfig(dnsUser)
	config.Dial = new(net.Dialer).DialContext // a function of its own, so that client-go shares no connection
	api, err := source.NewAPI(config, keeper.API, source.Selectors{})
	if err != nil {
		return nil, err
	}
	o := keeper.Options{
		Store: store.New(time.Now), Sources: []keeper.Source{api}, Version: "bench",
		Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	}
	if with != nil {
		with(&o)
	}
	k, err := keeper.New(o)
	if err != nil {
		return nil, err
	}
	if err := k.Restore(); err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{Keeper: k, stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(i.done)
		defer api.Close()
		_ = k.Run(ctx) // what it could not save at the end is of no use here
	}()
	return i, nil
}

// startAll starts contenders for a case and waits until they answer for the last service. The lab knows processes by name,
// those that have ended too.
func (r *rig) startAll(ctx context.Context, suffix string, contenders []string) (map[string]*server, error) {
	servers := map[string]*server{}
	for _, contender := range contenders {
		var s *server
		var err error
		if contender == unboundName {
			s, err = r.unbound(ctx)
		} else {
			s, err = r.coreDNS(ctx, contender, contender+suffix)
		}
		if err != nil {
			return servers, err
		}
		servers[contender] = s
		if err := run.Until(ctx, time.Minute, s.answers(r.populated-1)); err != nil {
			return servers, fmt.Errorf("waiting for %s: %w", contender, err)
		}
		if contender == seakeepName {
			if log, err := os.ReadFile(s.process.LogFile()); err != nil || bytes.Contains(log, []byte("is off")) {
				return servers, fmt.Errorf("the fast path is off: %w", errors.Join(err, errors.New(string(log))))
			}
		}
	}
	return servers, nil
}

func stopAll(ctx context.Context, servers map[string]*server) error {
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.process.Stop(ctx))
	}
	return errors.Join(errs...)
}

// answers asks for a service.
func (s *server) answers(service int) func(context.Context) error {
	return func(ctx context.Context) error {
		query := new(dns.Msg).SetQuestion(fullName(service), dns.TypeA)
		m, _, err := (&dns.Client{Timeout: time.Second}).ExchangeContext(ctx, query, s.address)
		if err != nil {
			return err
		}
		if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			return fmt.Errorf("%s has answered %s with %d records", s.contender, dns.RcodeToString[m.Rcode], len(m.Answer))
		}
		return nil
	}
}

// fetch reads a page of a server's.
func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking for %s: %s", url, response.Status)
	}
	return body.Bytes(), nil
}
