package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// playSeakeep makes this test program the seakeep command, for tests that kill it.
const playSeakeep = "SEAKEEP_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playSeakeep) != "" {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// spawn starts seakeep as a process.
func spawn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), playSeakeep+"=1")
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already, or the test has failed
		_ = cmd.Wait()
	})
	return cmd
}

// sharesOf are the levels' shares and annotations.
func sharesOf(t *testing.T, client kubernetes.Interface) map[string]any {
	t.Helper()
	list, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]any{}
	for _, l := range list.Items {
		levels[l.Name] = []any{l.Annotations, l.Spec}
	}
	return levels
}

// grantAsDocumented gives a user the rights of the page on operations, and not one more.
func grantAsDocumented(t *testing.T, client kubernetes.Interface, user string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "operations", "apf.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	granted := 0
	for _, document := range strings.Split(text, "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.Kind {
		case "ClusterRole":
			role := new(rbacv1.ClusterRole)
			if err := yaml.UnmarshalStrict([]byte(document), role); err != nil {
				t.Fatal(err)
			}
			binding := &rbacv1.ClusterRoleBinding{ObjectMeta: role.ObjectMeta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}}
			_, err = client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
			if err == nil {
				_, err = client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
			}
		case "Role":
			role := new(rbacv1.Role)
			if err := yaml.UnmarshalStrict([]byte(document), role); err != nil {
				t.Fatal(err)
			}
			binding := &rbacv1.RoleBinding{ObjectMeta: role.ObjectMeta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}}
			_, err = client.RbacV1().Roles(role.Namespace).Create(t.Context(), role, metav1.CreateOptions{})
			if err == nil {
				_, err = client.RbacV1().RoleBindings(role.Namespace).Create(t.Context(), binding, metav1.CreateOptions{})
			}
		case "FlowSchema":
			schema := new(flowcontrolv1.FlowSchema)
			if err := yaml.UnmarshalStrict([]byte(document), schema); err != nil {
				t.Fatal(err)
			}
			_, err = client.FlowcontrolV1().FlowSchemas().Create(t.Context(), schema, metav1.CreateOptions{})
		default:
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		granted++
	}
	if granted != 3 {
		t.Fatalf("the page has %d of ClusterRole, Role and FlowSchema", granted)
	}
}

func TestGateAPFOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab")})
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	grantAsDocumented(t, client, "seakeep-apf")
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.User("seakeep-apf"), "", ""); err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	on := func(args ...string) []string {
		return append(append([]string{"gate", "apf"}, args...), "--kubeconfig", kubeconfig)
	}
	run := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := runVerb(t, on(args...)...)
		if code != want {
			t.Fatalf("%v: exit %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out
	}
	status := func() (s apfStatus) {
		t.Helper()
		if err := json.Unmarshal([]byte(run(ExitOK, "status", "-o", "json")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	stock := sharesOf(t, client)
	wantStock := func() {
		t.Helper()
		if diff := cmp.Diff(stock, sharesOf(t, client)); diff != "" {
			t.Errorf("not restored (-before +after):\n%s", diff)
		}
	}

	var planned apfPlanned
	if err := json.Unmarshal([]byte(run(ExitOK, "plan", "--seats", "40", "-o", "json")), &planned); err != nil {
		t.Fatal(err)
	}
	if planned.APIServers != 1 || planned.Full != 405 || planned.Else > 40 || planned.Else < 36 {
		t.Errorf("planned %+v", planned)
	}
	if out := run(ExitOK, "plan", "--seats", "40"); !strings.Contains(out, "405 → 40") {
		t.Errorf("the plan as a table:\n%s", out)
	}
	wantStock()

	follow := on("follow", "--seats", "60", "--state-dir", state, "--every", "1s")
	first := spawn(t, follow...)
	withheld := func() bool { s := status(); return s.Ballast > 0 && s.Follower.Holder != "" && len(s.Edited) == 3 }
	testkit.Within(t, "seats are withheld", time.Minute, withheld)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // killed
	if !withheld() {
		t.Error("what was killed cannot have restored")
	}
	if out := run(ExitOK, "status"); !strings.Contains(out, "SEATS ARE WITHHELD") || !strings.Contains(out, "40 shares, lends 25 %") {
		t.Errorf("status:\n%s", out)
	}

	t.Run("by hand, from the cluster alone", func(t *testing.T) {
		if out := run(ExitOK, "restore", "--state-dir", filepath.Join(t.TempDir(), "other")); !strings.Contains(out, "node-high: restored") {
			t.Errorf("restore:\n%s", out)
		}
		wantStock()
	})

	t.Run("by the next start, and by SIGTERM", func(t *testing.T) {
		second := spawn(t, follow...)
		testkit.Within(t, "the second follows", time.Minute, withheld)
		if err := second.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = second.Wait() // killed
		third := spawn(t, follow...)
		ballast := status().Ballast
		testkit.Within(t, "the third has restored and begun anew", time.Minute, func() bool { b := status().Ballast; return b != ballast })
		testkit.Within(t, "the third follows", time.Minute, withheld)
		if err := third.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := third.Wait(); err != nil {
			t.Errorf("SIGTERM: %v", err)
		}
		wantStock()
		if s := status(); s.Follower.Holder != "" {
			t.Errorf("the lease was not given back: %+v", s.Follower)
		}
	})

	t.Run("jail", func(t *testing.T) {
		run(ExitOK, "jail", "--user", "alice", "--for", "1h", "--reason", "INC-42", "--dry-run")
		if jails := status().Jails; len(jails) > 0 {
			t.Errorf("a dry run jails: %+v", jails)
		}
		run(ExitOK, "jail", "--service-account", "monitoring/*", "--verb", "list", "--for", "1h", "--reason", "INC-42", "--detach")
		staying := spawn(t, on("jail", "--user", "alice", "--for", "1h", "--reason", "INC-42")...)
		testkit.Within(t, "two in jail", 30*time.Second, func() bool { return len(status().Jails) == 2 })
		if err := staying.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := staying.Wait(); err != nil {
			t.Errorf("SIGTERM: %v", err)
		}
		jails := status().Jails
		if len(jails) != 1 || jails[0].Subjects[0] != "ServiceAccount monitoring/*" {
			t.Fatalf("jails: %+v", jails)
		}
		if out := run(ExitOK, "status"); !strings.Contains(out, "ServiceAccount monitoring/*") || !strings.Contains(out, "INC-42") {
			t.Errorf("status:\n%s", out)
		}
		run(ExitFailure, "unjail", "nobody")
		run(ExitOK, "unjail", "--all")
		wantStock()
	})
}

func TestGateAPFRefuses(t *testing.T) {
	tests := map[string]struct {
		args []string
		want string
	}{
		"no action":             {nil, "needs an action"},
		"plan without a number": {[]string{"plan"}, "--seats or --gate-metrics"},
		"two sources":           {[]string{"follow", "--seats", "3", "--cpu", "4"}, "one of --gate-metrics"},
		"no source":             {[]string{"follow"}, "one of --gate-metrics"},
		"a gate, not a URL":     {[]string{"follow", "--gate-metrics", "gate:1"}, "https://host:port"},
		"memory":                {[]string{"follow", "--memory", "much"}, "quantity"},
		"hold":                  {[]string{"follow", "--seats", "3", "--hold", "1s"}, "5s to 1h"},
		"every":                 {[]string{"follow", "--seats", "3", "--every", "1ms"}, "1s to 1m"},
		"min":                   {[]string{"follow", "--seats", "3", "--min", "0"}, "--min must be"},
		"output":                {[]string{"status", "-o", "xml"}, "table or json or yaml"},
		"catch-all":             {[]string{"plan", "--seats", "3", "--protect", "catch-all"}, "nobody edit"},
		"a jail without reason": {[]string{"jail", "--user", "a", "--for", "1m"}, "--reason"},
		"a jail without end":    {[]string{"jail", "--user", "a", "--reason", "x"}, "1s to 24h"},
		"two in one":            {[]string{"jail", "--user", "a", "--group", "b", "--for", "1m", "--reason", "x"}, "got 2"},
		"a component":           {[]string{"jail", "--user", "system:kube-scheduler", "--for", "1m", "--reason", "x"}, "--system"},
		"all and one":           {[]string{"unjail", "--all", "a"}, "or --all"},
		"no kubeconfig":         {[]string{"status", "--kubeconfig", "/nowhere"}, "/nowhere"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, errs := runVerb(t, append([]string{"gate", "apf"}, tc.args...)...)
			if code != ExitUsage || !strings.Contains(errs, tc.want) || out != "" {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, ExitUsage, tc.want, out, errs)
			}
		})
	}
}

func TestWriteAPF(t *testing.T) {
	levels := []plan.Level{
		{Name: "exempt", Exempt: true}, {Name: "catch-all", Shares: 5}, {Name: "global-default", Shares: 20, Lendable: 50}, {Name: "leader-election", Shares: 10},
		{Name: "node-high", Shares: 40, Lendable: 25}, {Name: "system", Shares: 30, Lendable: 33}, {Name: "workload-high", Shares: 40, Lendable: 50}, {Name: "workload-low", Shares: 100, Lendable: 90},
	}
	p, err := plan.Make(plan.Request{Levels: levels, Seats: plan.Seats{Least: 598, Most: 600}, Protected: plan.Protected, Wanted: 40})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeAPFPlan(&out, &apfPlanned{APIServers: 3, Plan: p}); err != nil {
		t.Fatal(err)
	}
	golden(t, "apf-plan.txt", out.Bytes())

	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	renewed, seats := now.Add(-3*time.Second), 98.0
	out.Reset()
	s := &apfStatus{
		Ballast: 1596, Follower: apfLease{Holder: "host-1a2b3c4d", Renewed: &renewed}, Unread: "it answers 403\x1b[2J",
		Edited: []apf.Edit{{Level: "node-high", Original: apf.Original{Shares: 40, Lendable: 25, WroteShares: 650}}, {Level: "system", Foreign: true}},
		Levels: []apfLevelStatus{{Name: "node-high", Shares: 650, Seats: &seats}, {Name: plan.Ballast, Shares: 1596}, {Name: "system", Shares: 77, Lendable: 33}},
		Jails:  []apf.Jailed{{Name: "seakeep-jail-a", Subjects: []string{"User a"}, Verbs: []string{"list"}, Expires: now.Add(time.Minute), Reason: "INC-42"}, {Name: "seakeep-jail-b", Subjects: []string{"Group b"}}},
	}
	if err := writeAPFStatus(&out, s, now); err != nil {
		t.Fatal(err)
	}
	golden(t, "apf-status.txt", out.Bytes())
}
