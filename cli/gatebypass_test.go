package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/gate/bypass"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/signals"
)

// measured runs `gate bypass` with traffic between its readings, and returns its report and exit code.
func measured(t *testing.T, lane *gatetest.Lane, traffic func(context.Context), more ...string) (*bypass.Report, int) {
	t.Helper()
	var out bytes.Buffer
	errs := &interlude{act: func() { traffic(t.Context()) }}
	args := append([]string{"gate", "bypass", "--socket", lane.Socket(), "--for", "1s", "-o", "json"}, more...)
	code := Run(t.Context(), &Env{Args: args, Stdout: &out, Stderr: errs, Getenv: func(string) string { return "" }})
	if code != ExitOK && code != ExitFindings {
		t.Fatalf("exit %d\n%s", code, errs.text.String())
	}
	report := new(bypass.Report)
	if err := json.Unmarshal(out.Bytes(), report); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return report, code
}

// interlude is a standard error that acts when the verb says that it counts. The verb waits for it meanwhile, so the
// traffic is within the interval however slow the machine is.
type interlude struct {
	act  func()
	text bytes.Buffer
	once sync.Once
}

func (i *interlude) Write(p []byte) (int, error) {
	n, err := i.text.Write(p)
	if strings.Contains(i.text.String(), "counting for") {
		i.once.Do(i.act)
	}
	return n, err
}

func lists(t *testing.T, client *kubernetes.Clientset, n int) func(context.Context) {
	return func(ctx context.Context) {
		for range n {
			if _, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err != nil {
				t.Errorf("listing: %v", err)
				return
			}
		}
	}
}

// One lab whose own controllers are silent enough: without nodes and pods hardly anything asks for namespaces.
func TestGateBypassOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab")})
	lane := gatetest.Open(t, l, gatetest.Options{More: "defaultLimits: Disabled\n"})
	through := gatetest.Clientset(t, lane.Config(lab.User("alice", "dev")))
	round := gatetest.Clientset(t, lane.Direct(lab.User("mallory", "ops")))
	grant(t, lane)

	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, "", ""); err != nil {
		t.Fatal(err)
	}
	const n = 200
	list := func(r *bypass.Report) bypass.Row {
		for _, row := range r.Rows {
			if row.Kind == (bypass.Kind{Verb: "list", Resource: "namespaces"}) {
				return row
			}
		}
		return bypass.Row{}
	}

	t.Run("half and half", func(t *testing.T) {
		report, code := measured(t, lane, func(ctx context.Context) {
			lists(t, through, n)(ctx)
			lists(t, round, n)(ctx)
		}, "--kubeconfig", kubeconfig, "--audit-log", l.AuditLog(0), "--fail-above", "1")
		row := list(report)
		if row.AtLeast > n || row.AtMost < n || row.AtMost-row.AtLeast > 4 {
			t.Errorf("want %d of %d LISTs round the gate within ±2, got %+v", n, 2*n, row)
		}
		if code != ExitFindings {
			t.Errorf("more than 1 %% goes round: want exit code %d, got %d", ExitFindings, code)
		}
		// The audit log names them, exactly.
		byUser := map[string]bypass.ClientRow{}
		for _, c := range report.Clients.List {
			byUser[c.User] = c
		}
		if got := byUser["mallory"]; got.Round != n || got.Gates != 0 || got.UserAgent != "seakeep-lab" || got.Source != "127.0.0.1" {
			t.Errorf("mallory went round %d times, the audit log says %+v", n, got)
		}
		if got, ok := byUser["alice"]; ok {
			t.Errorf("alice came through the gate, the audit log says %+v", got)
		}
		if c := report.Clients; c.Gates != n || c.Malformed+c.TooLong > 1 {
			t.Errorf("the audit log: %+v", c)
		}
	})

	t.Run("only through the gate", func(t *testing.T) {
		// Read the other way, without credentials: through a proxy of one's own.
		report, _ := measured(t, lane, lists(t, through, n), "--server-metrics", openMetrics(t, lane))
		if row := list(report); row.AtLeast != 0 || row.Round > 2 {
			t.Errorf("want nothing round the gate, got %+v", row)
		}
		if report.Total.APIServers-report.Total.Self < n {
			t.Errorf("the API server answered %d LISTs, the report has %+v", n, report.Total)
		}
	})

	t.Run("the API server's own", func(t *testing.T) {
		own := func() (sum float64) {
			text, err := gatetest.Clientset(t, lane.Direct(lab.Masters)).Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			reading, err := signals.ReadRequests(bytes.NewReader(text), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range reading.Self {
				sum += n
			}
			return sum
		}
		report, _ := measured(t, lane, func(context.Context) {
			before := own()
			// It renews a lease of its own every ten seconds.
			eventually(t, func() error {
				if own() == before {
					return errors.New("the API server asks itself nothing")
				}
				return nil
			})
		}, "--kubeconfig", kubeconfig, "--audit-log", l.AuditLog(0))
		if !report.SelfKnown || report.Total.Self == 0 || report.Clients.Self == 0 {
			t.Errorf("its own requests are not told apart: %+v, %+v", report.Total, report.Clients)
		}
		for _, c := range report.Clients.List {
			if c.User == "system:apiserver" {
				t.Errorf("it is said to go round the gate: %+v", c)
			}
		}
	})

	t.Run("refused by the API server", func(t *testing.T) {
		nobody := gatetest.Clientset(t, lane.Config(lab.User("nobody")))
		report, _ := measured(t, lane, func(ctx context.Context) {
			for range n {
				if _, err := nobody.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
					t.Error("nobody may list")
				}
			}
			lists(t, round, n)(ctx)
		}, "--kubeconfig", kubeconfig, "--server", l.APIServerURL(0))
		if row := list(report); row.AtMost < n || row.AtLeast > n {
			t.Errorf("the API server does not count what it refuses with 403: want %d within the bounds, got %+v", n, row)
		}
	})
}

// openMetrics serves the API server's metrics to anybody on loopback.
func openMetrics(t *testing.T, lane *gatetest.Lane) string {
	t.Helper()
	client := gatetest.Clientset(t, lane.Direct(lab.Masters))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = w.Write(text) // the verb under test says when it is cut off
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// grant lets the test's users list namespaces.
func grant(t *testing.T, lane *gatetest.Lane) {
	t.Helper()
	admin := gatetest.Clientset(t, lane.Direct(lab.Masters))
	bindings := admin.RbacV1().ClusterRoleBindings()
	for _, user := range []string{"alice", "mallory"} {
		if _, err := bindings.Create(t.Context(), viewer(user), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []lab.Identity{lab.User("alice", "dev"), lab.User("mallory", "ops")} {
		client := gatetest.Clientset(t, lane.Direct(id))
		eventually(t, func() error {
			_, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}

// viewer lets the user read.
func viewer(user string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test-view-" + user},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		RoleRef:    rbacv1.RoleRef{Kind: "ClusterRole", APIGroup: rbacv1.GroupName, Name: "view"},
	}
}

func TestGateBypassRefuses(t *testing.T) {
	socket, _ := emergencyGate(t) // an admin endpoint without totals
	answer := "garbage"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	defer server.Close()
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"no such gate":           {[]string{"--server-metrics", server.URL, "--socket", "/nonexistent"}, ExitFailure, "every gate"},
		"a gate without totals":  {[]string{"--server-metrics", server.URL, "--socket", socket}, ExitFailure, "no such endpoint"},
		"no kubeconfig":          {[]string{"--socket", socket, "--kubeconfig", "/nonexistent"}, ExitUsage, "kubeconfig"},
		"no such context":        {[]string{"--socket", socket, "--context", "none"}, ExitUsage, "none"},
		"both ways to read":      {[]string{"--server-metrics", server.URL, "--server", server.URL}, ExitUsage, "leave out"},
		"too short":              {[]string{"--for", "10ms"}, ExitUsage, "1s to 1h"},
		"not a percentage":       {[]string{"--fail-above", "101"}, ExitUsage, "percent"},
		"not a URL":              {[]string{"--server", "10.0.0.1:6443"}, ExitUsage, "https://host:port"},
		"output":                 {[]string{"--server-metrics", server.URL, "-o", "yaml"}, ExitUsage, "table or json"},
		"an audit log not there": {[]string{"--server-metrics", server.URL, "--audit-log", "/nonexistent"}, ExitUsage, "audit log"},
		"a stranger's argument":  {[]string{"now"}, ExitUsage, "now"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := runVerb(t, append([]string{"gate", "bypass"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.want) || out != "" {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tc.code, tc.want, out, stderr)
			}
		})
	}
}

func TestWriteBypass(t *testing.T) {
	row := func(verb, resource string) bypass.Row {
		return bypass.Row{Kind: bypass.Kind{Verb: verb, Resource: resource}, APIServers: 110, Self: 10, Gates: 60, Round: 40, AtLeast: 38, AtMost: 42}
	}
	report := &bypass.Report{
		Seconds: 30, Servers: 2, Gates: 1, Total: row("", ""), Share: .4, ShareAtLeast: .38, ShareAtMost: .42,
		Rows:     []bypass.Row{row("list", "pods"), row("get", "nodes")},
		Open:     []bypass.OpenRow{{Kind: bypass.Kind{Verb: "watch", Resource: "pods"}, APIServers: 5, Gates: 2, Round: 3}},
		Warnings: []string{"a gate was restarted meanwhile"},
		Clients: &bypass.Clients{Events: 100, Self: 10, Gates: 50, Round: 40, Torn: 1, List: []bypass.ClientRow{
			{Client: bypass.Client{User: "system:node:a\x1b[2J", UserAgent: "kubelet/v1.36.3", Source: "10.0.0.7"}, Round: 40, Gates: 3},
		}},
	}
	var out bytes.Buffer
	if err := writeBypass(&out, report, 1); err != nil {
		t.Fatal(err)
	}
	golden(t, "bypass.txt", out.Bytes())
	report = &bypass.Report{Seconds: 30, Servers: 1, Gates: 1}
	out.Reset()
	if err := writeBypass(&out, report, 20); err != nil {
		t.Fatal(err)
	}
	golden(t, "bypass-nothing.txt", out.Bytes())
}
