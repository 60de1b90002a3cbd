package many

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/endpoints"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// The API server takes no loopback address for an endpoint. So gates and API server announce addresses of a network for
// documentation, and network is what a node's kube-proxy and its network are in a cluster: it knows who is behind them.
type network map[string]string // announced host:port to real host:port

const announcedPort = 6443

// dial is what a pod's connection to the ClusterIP becomes: one to an address of the EndpointSlice.
func (n network) dial(t *testing.T, client kubernetes.Interface) func(ctx context.Context, network, address string) (net.Conn, error) {
	turn := 0
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		there := behind(t, client)
		if len(there) == 0 {
			return nil, fmt.Errorf("the service has no endpoint")
		}
		turn++
		return (&net.Dialer{}).DialContext(ctx, "tcp", n[there[turn%len(there)]])
	}
}

// behind is what the Service stands for now, by both of its objects, which must agree.
func behind(t *testing.T, client kubernetes.Interface) []string {
	t.Helper()
	slice, err := client.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || len(slice.Ports) != 1 {
		return nil
	}
	var there []string
	for _, e := range slice.Endpoints {
		there = append(there, fmt.Sprintf("%s:%d", e.Addresses[0], *slice.Ports[0].Port))
	}
	slices.Sort(there)
	return there
}

const (
	ownAddress = "192.0.2.1:6443"
	first      = "192.0.2.11:6443"
	second     = "192.0.2.12:6443"
)

// applyRights gives the gates and the watchdog what deploy/gate-endpoints does, and nothing else.
func applyRights(t *testing.T, l *lab.Lab) (kubectl func(args ...string) (string, error)) {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()))
	kubectl = func(args ...string) (string, error) {
		args = append([]string{"--kubeconfig", kubeconfig, "--cache-dir", t.TempDir()}, args...)
		out, err := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), args...).CombinedOutput()
		return string(out), err
	}
	for _, file := range []string{"rbac.yaml", "flowschema.yaml"} {
		if out, err := kubectl("apply", "-f", filepath.Join("..", "..", "deploy", "gate-endpoints", file), "--server-side", "--validate=strict"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return kubectl
}

// Two gates keep the Service; a pod reaches the API through it; both are killed, and the watchdog gives it back to the API
// server; one comes back, and the Service stands for it. All with the rights of deploy/gate-endpoints alone.
func TestTheServiceStandsForWhoIsAlive(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	applyRights(t, l)
	client := gatetest.Clientset(t, l.RESTConfig(lab.Masters))
	host := func(url string) string { return url[len("https://"):] }
	known := network{ownAddress: host(l.APIServerURL(0))}
	var gates []*process
	for i, announced := range []string{first, second} {
		g := newProcess(t, l, fmt.Sprintf("gate-%d", i), fmt.Sprintf(
			"service: {address: %s, port: %d, name: gate-%d, interval: 500ms, leaseDuration: 3s}\n", netip.MustParseAddrPort(announced).Addr(), announcedPort, i))
		known[announced] = g.address
		gates = append(gates, g)
	}
	watchdog(t, l, known)
	testkit.Within(t, "without a gate the Service is the API server's", 15*time.Second, func() bool { return slices.Equal(behind(t, client), []string{ownAddress}) })
	began := time.Now()
	startAll(t, gates)
	testkit.Within(t, "the Service stands for both gates", 15*time.Second, func() bool { return slices.Equal(behind(t, client), []string{first, second}) })
	t.Logf("both gates behind the Service after %s from their start", time.Since(began))

	// A pod's way in: the ClusterIP, verified by its certificate.
	pod := rest.CopyConfig(l.RESTConfig(lab.User(lab.AdminUser)))
	pod.Host, pod.Dial, pod.Timeout = "https://10.96.0.1:443", known.dial(t, client), 10*time.Second
	for range 3 {
		if _, err := gatetest.Clientset(t, pod).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Errorf("a pod through the Service: %v", err)
		}
	}
	// The old Endpoints are written after the slice.
	for _, want := range []string{`"endpointslice.kubernetes.io/skip-mirror":"true"`, `"ip":"192.0.2.11"`, `"ip":"192.0.2.12"`, `"port":6443`} {
		testkit.Within(t, "the endpoints have "+want, 15*time.Second, func() bool {
			old, err := client.CoreV1().RESTClient().Get().SetHeader("Accept", "application/json").Namespace("default").Resource("endpoints").Name("kubernetes").DoRaw(t.Context())
			return err == nil && strings.Contains(string(old), want)
		})
	}

	// One stops in order: it takes itself out before it turns anybody away.
	gates[1].kill(syscall.SIGTERM)
	if there := behind(t, client); !slices.Equal(there, []string{first}) {
		t.Errorf("after one gate has stopped the Service stands for %v", there)
	}
	gates[1].start()
	testkit.Within(t, "it is back", 20*time.Second, func() bool { return slices.Equal(behind(t, client), []string{first, second}) })

	gates[0].kill(syscall.SIGKILL)
	began = time.Now()
	testkit.Within(t, "the killed one is out", 20*time.Second, func() bool { return slices.Equal(behind(t, client), []string{second}) })
	t.Logf("a killed gate was out of the endpoints after %s", time.Since(began))
	gates[1].kill(syscall.SIGKILL)
	began = time.Now()
	testkit.Within(t, "the watchdog has given the Service back", 20*time.Second, func() bool { return slices.Equal(behind(t, client), []string{ownAddress}) })
	t.Logf("with both gates killed the API server's own address was restored after %s", time.Since(began))
	if _, err := gatetest.Clientset(t, pod).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a pod, with all gates dead: %v", err)
	}
	began = time.Now()
	gates[0].start()
	testkit.Within(t, "a gate is back behind the Service", 30*time.Second, func() bool { return slices.Equal(behind(t, client), []string{first}) })
	t.Logf("a gate that came back was behind the Service after %s", time.Since(began))
}

// watchdog runs one until the test ends.
func watchdog(t *testing.T, l *lab.Lab, known network) {
	t.Helper()
	c := l.RESTConfig(lab.User("seakeep:gate-watchdog"))
	client, err := rest.HTTPClientFor(c)
	check(t, err)
	store, err := endpoints.NewStore(c, client, false)
	check(t, err)
	w, ok := endpoints.NewWatchdog(endpoints.WatchdogOptions{
		APIServers: []netip.AddrPort{netip.MustParseAddrPort(ownAddress)}, Stores: []*endpoints.Store{store}, Interval: 500 * time.Millisecond,
		Answers: func(ctx context.Context, g endpoints.Gate) bool {
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", known[g.Address.String()])
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		},
		Changed: func(s endpoints.Status) { t.Logf("watchdog: %+v", s) },
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if !ok {
		t.Fatal("the watchdog takes no such address")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// The rights are enough, as the test above shows; and they are no more.
func TestRightsAreNoMore(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubectl := applyRights(t, l)
	for what, want := range map[string][2]string{ // the gates', the watchdog's
		"update leases.coordination.k8s.io/any -n kube-system":                 {"yes", "no"},
		"list leases.coordination.k8s.io -n kube-system":                       {"yes", "yes"},
		"delete leases.coordination.k8s.io/any -n kube-system":                 {"no", "no"},
		"update leases.coordination.k8s.io/any -n kube-node-lease":             {"no", "no"},
		"get services/kubernetes -n default":                                   {"yes", "yes"},
		"update services/kubernetes -n default":                                {"no", "no"},
		"update endpoints/kubernetes -n default":                               {"yes", "yes"},
		"update endpoints/other -n default":                                    {"no", "no"},
		"update endpointslices.discovery.k8s.io/kubernetes -n default":         {"yes", "yes"},
		"delete endpointslices.discovery.k8s.io/kubernetes -n default":         {"no", "no"},
		"update endpointslices.discovery.k8s.io/kube-dns-abcde -n kube-system": {"no", "no"},
		"create endpoints -n kube-system":                                      {"no", "no"},
		"list secrets -n default":                                              {"no", "no"},
		"impersonate users":                                                    {"no", "no"},
	} {
		for i, user := range []string{"seakeep:gate-endpoints", "seakeep:gate-watchdog"} {
			out, _ := kubectl(append([]string{"auth", "can-i", "--as", user}, strings.Fields(what)...)...)
			if lines := strings.Fields(out); len(lines) == 0 || lines[len(lines)-1] != want[i] {
				t.Errorf("may %s %s: %s, want %s", user, what, out, want[i])
			}
		}
	}
}
