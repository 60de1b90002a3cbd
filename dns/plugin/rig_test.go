package plugin

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/k8s_external"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/transfer"
	"github.com/miekg/dns"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/differential"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// outsideName is a name that the stub of the world outside knows.
const outsideName = "www.outside.example"

// rig is one real API server with the world of every shape of object in it.
type rig struct {
	lab        *lab.Lab
	client     kubernetes.Interface
	world      *differential.World
	kubeconfig string
	outside    *outside
}

var dualStack = map[string][]string{lab.KindAPIServer: {"--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/112"}}

// newRig starts a rig. With an own lab, the test may break it.
func newRig(t *testing.T, own bool) *rig {
	t.Helper()
	o := lab.Options{ExtraArgs: dualStack}
	if own {
		o.Dir = t.TempDir()
	}
	r := &rig{lab: lab.Start(t, o), world: differential.NewWorld(1, 6, outsideName), outside: startOutside(t)}
	r.client = r.clientOf(t)
	if err := r.world.Apply(t.Context(), r.client); err != nil {
		t.Fatal(err)
	}
	r.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := r.lab.WriteKubeconfig(r.kubeconfig, lab.Masters, r.lab.APIServerURL(0), r.lab.CAFile()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) clientOf(t *testing.T) kubernetes.Interface {
	t.Helper()
	config := r.lab.RESTConfig(lab.Masters)
	config.QPS, config.Burst = 500, 1000
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// server is a running CoreDNS.
type server struct {
	addr     string
	ports    []int
	data     corefileData
	instance *caddy.Instance
	stopped  sync.Once
}

// corefileData is what a Corefile's template may use.
type corefileData struct {
	Port                         int
	Plugin, Kubeconfig, Upstream string
	Dir                          string
	Ports                        []int
}

// serve starts CoreDNS, in this process, with a Corefile made from the template; plugin is "kubernetes" or "seakeep".
func (r *rig) serve(t *testing.T, plugin, corefile string) *server {
	t.Helper()
	return r.serveIn(t, plugin, corefile, t.TempDir())
}

func (r *rig) serveIn(t *testing.T, plugin, corefile, dir string) *server {
	t.Helper()
	data := corefileData{Plugin: plugin, Kubeconfig: r.kubeconfig, Upstream: r.outside.addr, Dir: dir}
	for range 3 {
		data.Ports = append(data.Ports, r.port(t))
	}
	data.Port = data.Ports[0]
	text := expand(t, corefile, data)
	s := &server{data: data, addr: fmt.Sprintf("127.0.0.1:%d", data.Port), ports: data.Ports}
	var err error
	if s.instance, err = startCoreDNS(text); err != nil {
		t.Fatalf("starting CoreDNS with\n%s\n%v", text, err)
	}
	t.Cleanup(s.stop)
	return s
}

// starting CoreDNS is not safe for concurrent use: Caddy's lists are the process's.
var starting sync.Mutex

func startCoreDNS(corefile string) (*caddy.Instance, error) {
	starting.Lock()
	defer starting.Unlock()
	caddy.Quiet, dnsserver.Quiet = true, true
	return caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
}

// expand makes a Corefile of a template.
func expand(t *testing.T, corefile string, data corefileData) string {
	t.Helper()
	var b bytes.Buffer
	if err := template.Must(template.New("").Funcs(template.FuncMap{"ours": func(line string) string {
		if data.Plugin == "seakeep" {
			return line
		}
		return ""
	}}).Parse(corefile)).Execute(&b, data); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// reload does what CoreDNS does on SIGUSR1, with another Corefile.
func (s *server) reload(t *testing.T, corefile string) {
	t.Helper()
	starting.Lock()
	defer starting.Unlock()
	next, err := s.instance.Restart(caddy.CaddyfileInput{Contents: []byte(expand(t, corefile, s.data)), Filepath: "Corefile", ServerTypeName: "dns"})
	if err != nil {
		t.Fatal(err)
	}
	s.instance = next
}

func (s *server) stop() {
	s.stopped.Do(func() {
		s.instance.ShutdownCallbacks()
		_ = s.instance.Stop()
	})
}

func (r *rig) port(t *testing.T) int {
	t.Helper()
	port, err := r.lab.NextPort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// ask puts one question over UDP.
func (s *server) ask(t *testing.T, name string, qtype uint16) *dns.Msg {
	t.Helper()
	return s.put(t, differential.Query{Name: name, Type: qtype, Class: dns.ClassINET, RD: true})
}

func (s *server) put(t *testing.T, q differential.Query) *dns.Msg {
	t.Helper()
	m, err := differential.Ask(t.Context(), s.addr, q)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// outside stands for the DNS of the world outside: it knows every name, and remembers what it was asked.
type outside struct {
	addr string
	mu   sync.Mutex
	seen map[string]int
}

func startOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{seen: map[string]int{}}
	o.addr = testkit.ServeDNS(t, o, o)
	return o
}

// ServeDNS answers A and AAAA of every name, and that there is no PTR.
func (o *outside) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	name := r.Question[0].Name
	o.mu.Lock()
	o.seen[strings.ToLower(name)]++
	o.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	header := dns.RR_Header{Name: name, Rrtype: r.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
	switch r.Question[0].Qtype {
	case dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: header, A: net.IPv4(192, 0, 2, 80)}}
	case dns.TypeAAAA:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: header, AAAA: net.ParseIP("2001:db8::80")}}
	case dns.TypePTR:
		m.Rcode = dns.RcodeNameError
	}
	_ = w.WriteMsg(m)
}

// asked says how often a name, or any name below it, was asked for.
func (o *outside) asked(suffix string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for name, count := range o.seen {
		if dns.IsSubDomain(suffix, name) {
			n += count
		}
	}
	return n
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testkit.Within(t, what, 60*time.Second, ok)
}

func TestMain(m *testing.M) {
	if !slices.Contains(dnsserver.Directives, "seakeep") {
		i := slices.Index(dnsserver.Directives, "kubernetes")
		dnsserver.Directives = slices.Insert(slices.Clone(dnsserver.Directives), i, "seakeep")
	}
	os.Exit(m.Run())
}
