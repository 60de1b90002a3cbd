package dns

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/dns/relay/credentials"
	"github.com/seakeep/seakeep/lab"
)

// rig runs our program with the Corefiles of this folder on one machine: ports, addresses and folders are replaced, and what
// Kubernetes sets in the pods' environment is set; the rest is as it is written.
type rig struct {
	t          *testing.T
	lab        *lab.Lab
	client     kubernetes.Interface
	binary     string
	kubeconfig string
	papers     string
	relayPorts [2]int
	upstream   string // where names of the world outside are forwarded to
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, lab: lab.Start(t, lab.Options{Dir: t.TempDir()}), binary: filepath.Join(t.TempDir(), "seakeep-dns"), papers: t.TempDir()}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", r.binary, "../../cmd/seakeep-dns").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	var err error
	r.client, err = kubernetes.NewForConfig(r.lab.RESTConfig(lab.Masters))
	check(t, err)
	r.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	check(t, r.lab.WriteKubeconfig(r.kubeconfig, lab.Masters, r.lab.APIServerURL(0), r.lab.CAFile()))
	check(t, credentials.Write(r.papers, time.Hour))
	for i := range r.relayPorts {
		r.relayPorts[i] = r.port()
	}
	r.upstream = fmt.Sprintf("127.0.0.1:%d", r.port()) // nobody
	return r
}

func (r *rig) port() int {
	r.t.Helper()
	n, err := r.lab.NextPort()
	check(r.t, err)
	return n
}

// mount makes what the pod's volume of a secret has: the names that kustomization.yaml gives the files.
func (r *rig) mount(folder, name string) {
	r.t.Helper()
	check(r.t, os.MkdirAll(folder, 0o700))
	for to, from := range map[string]string{"tls.crt": name + ".crt", "tls.key": name + ".key", "ca.crt": "ca.crt"} {
		content, err := os.ReadFile(filepath.Join(r.papers, from))
		check(r.t, err)
		check(r.t, os.WriteFile(filepath.Join(folder, to), content, 0o600))
	}
}

// process is a running program.
type process struct {
	rig      *rig
	addr     string
	state    string // host:port of /state; empty where the Corefile has none
	corefile string
	log      bytes.Buffer
	cmd      *exec.Cmd
	ended    chan struct{}
	stop     func()
}

// start starts the program with a Corefile, and returns when it is answering for the cluster.
func (r *rig) start(file, node string, environment ...string) *process {
	r.t.Helper()
	p := r.launch(file, node, environment...)
	p.eventually("an answer", func() bool { return len(p.ask("kubernetes.default")) == 1 })
	return p
}

func (r *rig) launch(file, node string, environment ...string) *process {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join("corefiles", file))
	check(r.t, err)
	dir, at := r.t.TempDir(), r.port()
	p := &process{rig: r, addr: fmt.Sprintf("127.0.0.1:%d", at), ended: make(chan struct{})}
	check(r.t, os.MkdirAll(filepath.Join(dir, "lib", "export"), 0o755))
	r.mount(filepath.Join(dir, "relay"), "relay")
	r.mount(filepath.Join(dir, "relay-client"), "client")
	corefile := regexp.MustCompile(`(?m)^\s*kubeconfig .*\n`).ReplaceAllString(string(text), "")
	corefile = regexp.MustCompile(`(?m)^    bind .*\n`).ReplaceAllString(corefile, "")
	corefile = regexp.MustCompile(`(?m)^\.:\d+ \{`).ReplaceAllString(corefile, fmt.Sprintf(".:%d {\n    bind 127.0.0.1", at))
	for _, replace := range [][2]string{
		{"seakeep cluster.local in-addr.arpa ip6.arpa {", "seakeep cluster.local in-addr.arpa ip6.arpa {\n        kubeconfig " + r.kubeconfig + " lab"},
		{"/var/lib/seakeep-dns", filepath.Join(dir, "lib")},
		{"/run/seakeep-dns/", dir + "/"}, {"/run/seakeep/", dir + "/"}, {"/etc/relay", filepath.Join(dir, "relay")},
		{"forward . /etc/resolv.conf", "forward . " + r.upstream},
	} {
		corefile = strings.ReplaceAll(corefile, replace[0], replace[1])
	}
	if i := slices.Index([]string{"relay-0", "relay-1"}, file); i >= 0 {
		corefile = strings.ReplaceAll(corefile, "relay :9443", fmt.Sprintf("relay 127.0.0.1:%d", r.relayPorts[i]))
	}
	corefile = regexp.MustCompile(`(?m)(health|ready|state|prometheus)( 127\.0\.0\.1)?( ?:\d+|)( \{)?$`).ReplaceAllStringFunc(corefile, func(line string) string {
		name, brace := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })[0], ""
		if strings.HasSuffix(line, "{") {
			brace = " {"
		}
		address := fmt.Sprintf("127.0.0.1:%d", r.port())
		if name == "state" {
			p.state = address
		}
		return name + " " + address + brace
	})
	p.corefile = corefile
	path := filepath.Join(dir, "Corefile")
	check(r.t, os.WriteFile(path, []byte(corefile), 0o600))
	p.cmd = exec.CommandContext(r.t.Context(), r.binary, "-conf", path)
	p.cmd.Env = append(append(os.Environ(), "NODE_NAME="+node), environment...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	check(r.t, p.cmd.Start())
	go func() { defer close(p.ended); _ = p.cmd.Wait() }()
	p.stop = sync.OnceFunc(func() { _ = p.cmd.Process.Signal(syscall.SIGKILL); <-p.ended })
	r.t.Cleanup(p.stop)
	return p
}

// services is the environment that Kubernetes sets when the relays' services are there.
func (r *rig) services() []string {
	var environment []string
	for i, port := range r.relayPorts {
		environment = append(environment, fmt.Sprintf("SEAKEEP_DNS_RELAY_%d_SERVICE_HOST=127.0.0.1", i), fmt.Sprintf("SEAKEEP_DNS_RELAY_%d_SERVICE_PORT=%d", i, port))
	}
	return environment
}

// eventually polls until the condition holds or the process ends.
func (p *process) eventually(what string, ok func() bool) {
	p.rig.t.Helper()
	deadline, tick := time.After(60*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-p.ended:
			p.rig.t.Fatalf("it ended:\n%s\nwith\n%s", p.log.String(), p.corefile)
		case <-deadline:
			p.stop()
			p.rig.t.Fatalf("waited 60 s for %s:\n%s\nwith\n%s", what, p.log.String(), p.corefile)
		}
	}
}

// ask returns the records of a service.
func (p *process) ask(service string) []dns.RR { return p.askName(service + ".svc.cluster.local.") }

func (p *process) askName(name string) []dns.RR {
	m, _, err := new(dns.Client).ExchangeContext(p.rig.t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeA), p.addr)
	if err != nil {
		return nil
	}
	return m.Answer
}

// follows is true when /state says that the data is live and whose it is.
func (p *process) follows(source string) bool {
	answer, err := http.Get("http://" + p.state + "/state")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	var state struct{ State, Source string }
	return json.NewDecoder(answer.Body).Decode(&state) == nil && state.State == "live" && state.Source == source
}

// Every Corefile starts our program and answers, also in a pod that was started before the relays' services were there.
func TestCorefilesStart(t *testing.T) {
	r := newRig(t)
	files, err := filepath.Glob("corefiles/*")
	if err != nil || len(files) != 5 {
		t.Fatalf("%v (%v)", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { r.start(filepath.Base(file), "node").stop() })
	}
}

// Two relays, the central replicas and node-local servers cost the API server one list of each kind, all together. The first
// relay is killed: the second goes on with the API server without a list, everybody else goes on with the second, and what changes
// is answered everywhere. Then the second is killed too.
func TestAllTogetherCostOneList(t *testing.T) {
	r := newRig(t)
	environment := r.services()
	relays := []*process{r.start("relay-0", "a", environment...), r.start("relay-1", "b", environment...)}
	var servers []*process
	for i := range 2 {
		servers = append(servers, r.start("cluster", fmt.Sprintf("central-%d", i), environment...))
	}
	urls := []string{fmt.Sprintf("https://127.0.0.1:%d", r.relayPorts[0]), fmt.Sprintf("https://127.0.0.1:%d", r.relayPorts[1])}
	// A node's first relay is drawn from its name and the relays' URLs, whose ports are others each time: one time in eight, four
	// nodes draw the same.
	var nodes []*process
	first := 0
	for i := 0; i < 4 || first == 0 || first == len(nodes); i++ {
		if i == 20 {
			t.Fatalf("%d of %d nodes follow the first relay: want them shared", first, len(nodes))
		}
		n := r.start("node", fmt.Sprintf("node-%d", i), environment...)
		n.eventually("a relay to be followed", func() bool { return n.follows(urls[0]) || n.follows(urls[1]) })
		if n.follows(urls[0]) {
			first++
		}
		nodes = append(nodes, n)
	}
	servers = append(servers, nodes...)
	appears := func(name string, where []*process) {
		t.Helper()
		made, err := r.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		check(t, err)
		for _, p := range where {
			p.eventually(name, func() bool {
				answer := p.ask(name + ".default")
				return len(answer) == 1 && answer[0].(*dns.A).A.String() == made.Spec.ClusterIP
			})
		}
	}
	appears("with-both", append(slices.Clone(servers), relays...))
	r.wantLists("with both relays")

	relays[0].stop() // kill -9
	appears("with-the-second", append(slices.Clone(servers), relays[1]))
	for _, n := range nodes {
		n.eventually("the second relay to be followed", func() bool { return n.follows(urls[1]) })
	}
	r.wantLists("with the first relay killed")

	relays[1].stop()
	appears("with-none", servers)
	r.wantLists("with both relays killed")
}

// Names of the world outside outlive their time to live, and the resolver that they came from.
func TestNamesOutsideOutliveTheirResolver(t *testing.T) {
	r := newRig(t)
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	r.upstream = packets.LocalAddr().String()
	resolver := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 80)}}
		_ = w.WriteMsg(m)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = resolver.ActivateAndServe() }()
	p := r.start("node", "node")
	const name = "www.outside.example."
	p.eventually("a name of the world outside", func() bool { return len(p.askName(name)) == 1 })
	check(t, resolver.Shutdown())
	<-ended
	// CoreDNS keeps what is positive for at least 5 s; stale answers have a TTL of 0.
	p.eventually("the time to live to have passed", func() bool {
		answer := p.askName(name)
		if len(answer) != 1 {
			t.Fatalf("without its resolver a name is answered with %v", answer)
		}
		return answer[0].Header().Ttl == 0
	})
	for range 20 {
		if answer := p.askName(name); len(answer) != 1 {
			t.Fatalf("past its time to live, without its resolver, a name is answered with %v", answer)
		}
	}
}

// wantLists holds that the API server was asked for one list of each kind, by all of our programs together.
func (r *rig) wantLists(when string) {
	r.t.Helper()
	content, err := os.ReadFile(r.lab.AuditLog(0))
	check(r.t, err)
	lists := map[string]int{}
	for line := range bytes.Lines(content) {
		var event struct {
			Verb, UserAgent string
			ObjectRef       struct{ Resource string }
		}
		if json.Unmarshal(line, &event) == nil && event.Verb == "list" && strings.HasPrefix(event.UserAgent, "seakeep-dns ") {
			lists[event.ObjectRef.Resource]++
		}
	}
	r.t.Logf("%s the API server was asked for lists: %v", when, lists)
	for _, kind := range []string{"namespaces", "services", "endpointslices"} {
		if lists[kind] != 1 {
			r.t.Errorf("%s the API server was asked for %d lists of %s, want 1", when, lists[kind], kind)
		}
	}
}
