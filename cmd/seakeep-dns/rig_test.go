package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/plugin/control"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// playEnv makes this test's executable the program itself, with one difference: beyond the limit of a file's size the
// kernel sends a signal before the write fails, which a full disk does not, and which is ignored here.
const playEnv = "SEAKEEP_DNS_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playEnv) != "" {
		signal.Ignore(syscall.SIGXFSZ)
		main()
		return
	}
	code := m.Run()
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testkit.Within(t, what, 60*time.Second, ok)
}

func clientOf(t *testing.T, l *lab.Lab) kubernetes.Interface {
	t.Helper()
	config := l.RESTConfig(lab.Masters)
	config.QPS, config.Burst = 500, 1000
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	return client
}

// headless makes a headless service in the namespace default, with two endpoints on two of twenty nodes.
func headless(t *testing.T, client kubernetes.Interface, i int) {
	t.Helper()
	_, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(i)}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone},
	}, metav1.CreateOptions{})
	check(t, err)
	_, err = client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), sliceOf(i, true), metav1.CreateOptions{})
	check(t, err)
}

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

func sliceOf(i int, ready bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName(i), Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for e := range 2 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.9.%d.%d", i, e+1)}, NodeName: new(fmt.Sprintf("node-%d", (i+e)%20)),
			Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return s
}

// server is a seakeep-dns of its own process.
type server struct {
	*lab.Process
	dir, addr, state string
}

// serve starts one over the lab's API server; options is what stands in the stanza besides. It keeps its snapshot.
func serve(t *testing.T, l *lab.Lab, binary, name, options string) *server {
	t.Helper()
	s := &server{dir: t.TempDir()}
	s.configure(t, l, options)
	process, err := l.Run(t.Context(), lab.ProcessSpec{Name: name, Path: binary, Args: []string{"-conf", s.corefile()}, Ready: s.reachable})
	check(t, err)
	s.Process = process
	return s
}

func (s *server) corefile() string { return filepath.Join(s.dir, "Corefile") }
func (s *server) socket() string   { return filepath.Join(s.dir, "dns.sock") }
func (s *server) snapshot() string { return filepath.Join(s.dir, "snapshot", "dns-snapshot") }

func (s *server) configure(t *testing.T, l *lab.Lab, options string) {
	t.Helper()
	kubeconfig := filepath.Join(s.dir, "kubeconfig")
	check(t, l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()))
	var ports [2]int
	for i := range ports {
		var err error
		ports[i], err = l.NextPort()
		check(t, err)
	}
	s.addr, s.state = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	check(t, os.WriteFile(s.corefile(), []byte(fmt.Sprintf(`.:%d {
    bind 127.0.0.1
    errors
    seakeep cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s lab
        ttl 5
        startup_timeout 1s
        snapshot %s
        state %s
        socket %s
        %s
    }
    loadbalance
}
`, ports[0], kubeconfig, filepath.Dir(s.snapshot()), s.state, s.socket(), options)), 0o600))
}

// reachable is true once it answers anything at all.
func (s *server) reachable(ctx context.Context) error {
	_, err := s.get(ctx)
	if err == nil {
		_, _, err = new(dns.Client).ExchangeContext(ctx, new(dns.Msg).SetQuestion("cluster.local.", dns.TypeSOA), s.addr)
	}
	return err
}

func (s *server) get(ctx context.Context) (control.State, error) {
	var state control.State
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.state+"/state", nil)
	if err != nil {
		return state, err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return state, err
	}
	defer answer.Body.Close()
	return state, json.NewDecoder(answer.Body).Decode(&state)
}

func (s *server) is(t *testing.T, state string) func() bool {
	return func() bool {
		now, err := s.get(t.Context())
		return err == nil && string(now.State) == state
	}
}

// ask asks with EDNS for a service's addresses, and returns what an Extended DNS Error says, if there is one.
func (s *server) ask(t *testing.T, service string) (*dns.Msg, *dns.EDNS0_EDE) {
	t.Helper()
	q := new(dns.Msg).SetQuestion(service+".svc.cluster.local.", dns.TypeA)
	q.SetEdns0(1232, false)
	m, _, err := new(dns.Client).ExchangeContext(t.Context(), q, s.addr)
	check(t, err)
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return m, e
			}
		}
	}
	return m, nil
}

// answered is true while every headless service from 0 to n is answered with two addresses.
func (s *server) answered(t *testing.T, n int) bool {
	t.Helper()
	for i := range n {
		if m, _ := s.ask(t, serviceName(i)+".default"); len(m.Answer) != 2 {
			return false
		}
	}
	return true
}

// kill is kill -9.
func (s *server) kill(t *testing.T) {
	t.Helper()
	check(t, s.Signal(syscall.SIGKILL))
	check(t, s.Stop(t.Context()))
}

func (s *server) logged(t *testing.T, want string) bool {
	t.Helper()
	text, err := os.ReadFile(s.LogFile())
	check(t, err)
	return strings.Contains(string(text), want)
}

// command runs a sub-command of the program against the server.
func (s *server) command(t *testing.T, binary string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, append(args, "--socket", s.socket())...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v ends with %v: %s", args, err, out)
	}
	return string(out)
}

// killAPIServer ends the API server as a crash does, and keeps it down.
func killAPIServer(t *testing.T, l *lab.Lab) *lab.Process {
	t.Helper()
	p, _ := l.Process(lab.KindAPIServer)
	check(t, p.Signal(syscall.SIGKILL))
	check(t, p.Stop(t.Context()))
	return p
}

// listed counts the lists that the API server's audit log has of the program, by kind.
func listed(t *testing.T, l *lab.Lab) map[string]int {
	t.Helper()
	content, err := os.ReadFile(l.AuditLog(0))
	check(t, err)
	count := map[string]int{"namespaces": 0, "services": 0, "endpointslices": 0}
	for line := range bytes.Lines(content) {
		var event struct {
			Verb, UserAgent string
			ObjectRef       struct{ Resource string }
		}
		if json.Unmarshal(line, &event) == nil && event.Verb == "list" && strings.HasPrefix(event.UserAgent, "seakeep-dns ") {
			count[event.ObjectRef.Resource]++
		}
	}
	return count
}
