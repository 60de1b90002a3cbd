package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/lab/agents"
)

// small is the lab that this package's tests share.
func small(t *testing.T) *Lab { return Start(t, Options{Nodes: 20, Pods: 200}) }

func clientOf(t *testing.T, l *Lab, id Identity) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(l.RESTConfig(id))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestLabIsARealCluster(t *testing.T) {
	l := small(t)
	pods, err := clientOf(t, l, Admin).CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{}
	population := 0
	for _, pod := range pods.Items {
		if !strings.HasPrefix(pod.Namespace, "app-") {
			continue
		}
		population++
		if pod.Status.Phase != corev1.PodRunning || pod.Spec.NodeName == "" {
			t.Errorf("pod %s is %s on node %q", pod.Name, pod.Status.Phase, pod.Spec.NodeName)
		}
		if other, taken := addresses[pod.Status.PodIP]; taken {
			t.Errorf("pods %s and %s share the address %s", pod.Name, other, pod.Status.PodIP)
		}
		addresses[pod.Status.PodIP] = pod.Name
	}
	if population != 200 {
		t.Errorf("%d pods, want 200", population)
	}
	slices, err := clientOf(t, l, Admin).DiscoveryV1().EndpointSlices("app-0").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(slices.Items) == 0 {
		t.Errorf("%d EndpointSlices (%v), want the real controller's", len(slices.Items), err)
	}
	leases, err := clientOf(t, l, Admin).CoordinationV1().Leases("kube-node-lease").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(leases.Items) != 20 {
		t.Fatalf("%d leases (%v), want 20", len(leases.Items), err)
	}
	if got := *leases.Items[0].Spec.LeaseDurationSeconds; got != leaseSeconds {
		t.Errorf("lease lasts %d s, want %d", got, leaseSeconds)
	}
}

func TestIdentities(t *testing.T) {
	l := small(t)
	for id, want := range map[Identity]struct {
		secrets bool
		groups  string
	}{
		Masters:           {true, "system:masters"},
		Admin:             {true, ""},
		BreakGlass:        {true, "system:masters"},
		Node(NodeName(0)): {false, "system:nodes"},
	} {
		t.Run(id.String(), func(t *testing.T) {
			_, err := clientOf(t, l, id).CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			if got := err == nil; got != want.secrets {
				t.Errorf("may list secrets: %t (%v), want %t", got, err, want.secrets)
			}
			if got := strings.Join(id.Groups(), ","); got != want.groups {
				t.Errorf("groups are %q, want %q", got, want.groups)
			}
		})
	}
	own, err := clientOf(t, l, Node(NodeName(0))).CoreV1().Nodes().Get(t.Context(), NodeName(0), metav1.GetOptions{})
	if err != nil || own.Name != NodeName(0) {
		t.Errorf("a node may not read itself: %v", err)
	}
}

func TestPodLogs(t *testing.T) {
	l := small(t)
	client := clientOf(t, l, Admin)
	pods, err := client.CoreV1().Pods("app-0").List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	data, err := client.CoreV1().Pods("app-0").GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{Container: "web"}).DoRaw(t.Context())
	if err != nil || !strings.Contains(string(data), "simulated") {
		t.Errorf("log is %q (%v)", data, err)
	}
}

func TestPopulationIsRepeatable(t *testing.T) {
	one, two := &Lab{options: Options{Seed: 7}}, &Lab{options: Options{Seed: 7}}
	other := &Lab{options: Options{Seed: 8}}
	value := func(l *Lab) string {
		return podTemplate(nil, l.random(2, 3), 16).Spec.Containers[0].Env[0].Value
	}
	if value(one) != value(two) || value(one) == value(other) {
		t.Error("the seed does not decide what is random")
	}
	total := 0
	for _, p := range plan(1234) {
		total += p.replicas
	}
	if total != 1234 {
		t.Errorf("the plan has %d pods, want 1234", total)
	}
}

// agentDaemonSet makes a DaemonSet with an agent's annotations, and the account and role its pods need.
func agentDaemonSet(t *testing.T, l *Lab, name string, annotations map[string]string) kubernetes.Interface {
	t.Helper()
	client := clientOf(t, l, Masters)
	ctx := t.Context()
	const namespace = "agents"
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if ignoreExists(err) != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": name}
	_, err = client.AppsV1().DaemonSets(namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
			Spec: corev1.PodSpec{
				ServiceAccountName: name,
				Containers:         []corev1.Container{{Name: "agent", Image: "registry.example.com/telemetry:1.4.2"}},
			},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// audited counts the requests of a user agent in the audit log, by user.
func audited(t *testing.T, l *Lab, userAgent string) map[string]int {
	t.Helper()
	f, err := os.Open(l.AuditLog(0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			UserAgent string
			User      struct{ Username string }
		}
		if json.Unmarshal(lines.Bytes(), &event) == nil && event.UserAgent == userAgent {
			counts[event.User.Username]++
		}
	}
	return counts
}

func TestAgentsAreTheirPods(t *testing.T) {
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 5, Pods: 10})
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := agentDaemonSet(t, l, "telemetry", map[string]string{agents.AnnotationVerb: "list", agents.AnnotationPeriod: "200ms"})
	stats := func() AgentStats {
		s, err := l.AgentStats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	eventually(t, "one agent for each node, making requests", func() bool { s := stats(); return s.Running == 5 && s.OK > 20 })

	const user = "system:serviceaccount:agents:telemetry"
	if got := audited(t, l, "telemetry/1.4.2"); got[user] == 0 || len(got) != 1 {
		t.Errorf("the audit log has %v for the agents' user agent, want requests of %s only", got, user)
	}

	// Rolling the DaemonSet changes the load.
	patch := []byte(`{"spec":{"template":{"metadata":{"annotations":{"seakeep.dev/agent-user-agent":"telemetry/2","seakeep.dev/agent-verb":"watchlist","seakeep.dev/agent-period":"1s"}}}}}`)
	if _, err := client.AppsV1().DaemonSets("agents").Patch(t.Context(), "telemetry", "application/strategic-merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rolled agents' requests", func() bool { return audited(t, l, "telemetry/2")[user] > 5 })
	eventually(t, "all pods rolled", func() bool { return stats().Running == 5 })

	// Deleting it ends them.
	if err := client.AppsV1().DaemonSets("agents").Delete(t.Context(), "telemetry", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agents' end", func() bool { return stats().Running == 0 })
	before := stats()
	if after := stats(); after.OK != before.OK {
		t.Errorf("%v requests after the agents' end", after.OK-before.OK)
	}
}

func TestAgentWithWrongBehaviourIsRefused(t *testing.T) {
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 2})
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	agentDaemonSet(t, l, "wrong", map[string]string{agents.AnnotationVerb: "list", agents.AnnotationPeriod: "never"})
	eventually(t, "refusal", func() bool {
		s, err := l.AgentStats(t.Context())
		return err == nil && s.RefusedBehaviour > 0 && s.Running == 0
	})
}

func TestDNSAnswersForAService(t *testing.T) {
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 3, Pods: 40})
	d, err := l.StartDNS(t.Context(), DNSOptions{TTL: 7 * time.Second, Replicas: 2, NodeCaches: 2})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(service types.NamespacedName, addr string) (*dns.Msg, error) {
		query := new(dns.Msg)
		query.SetQuestion(service.Name+"."+service.Namespace+".svc."+Domain+".", dns.TypeA)
		answer, _, err := new(dns.Client).ExchangeContext(t.Context(), query, addr)
		return answer, err
	}
	for _, addr := range slices.Concat(d.ClusterAddrs, d.CacheAddrs) {
		answer, err := ask(l.Deployments()[0], addr)
		if err != nil {
			t.Fatalf("asking %s: %v", addr, err)
		}
		if len(answer.Answer) != 1 || answer.Answer[0].Header().Ttl > 7 {
			t.Errorf("%s answers %v, want one address with a TTL of ≤ 7 s", addr, answer.Answer)
		}
	}
	before := d.Cluster[1].PID()
	if err := d.Cluster[1].Restart(t.Context()); err != nil || d.Cluster[1].PID() == before {
		t.Errorf("restarting DNS: %v", err)
	}
	// A replica that is gone costs no name that is not cached: the caches ask the other one.
	if err := d.Cluster[0].Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, service := range l.Deployments()[1:] {
		for _, addr := range d.CacheAddrs {
			if answer, err := ask(service, addr); err != nil || len(answer.Answer) != 1 {
				t.Errorf("with one replica of two, %s is answered with %v (%v)", service, answer, err)
			}
		}
	}
}

func TestFreezeAndRestore(t *testing.T) {
	frozen := filepath.Join(t.TempDir(), "frozen")
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 3, Pods: 30})
	token := clientOf(t, l, Admin)
	before, err := token.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Freeze(t.Context(), frozen); err != nil {
		t.Fatal(err)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again := Start(t, Options{Dir: t.TempDir(), Restore: frozen})
		after, err := clientOf(t, again, Admin).CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(after.Items) != len(before.Items) || after.Items[0].UID != before.Items[0].UID {
			t.Errorf("%d pods after the restore, want the same %d", len(after.Items), len(before.Items))
		}
		eventually(t, "leases renewed by the new kubelets", func() bool {
			leases, err := clientOf(t, again, Admin).CoordinationV1().Leases("kube-node-lease").List(t.Context(), metav1.ListOptions{})
			return err == nil && len(leases.Items) == 3
		})
		if err := again.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestThreeEtcdMembersTwoAPIServers(t *testing.T) {
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 2, Pods: 4, Etcd: 3, APIServers: 2})
	name := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seen-by-both", Namespace: "default"}}
	if _, err := clientOf(t, l, Admin).CoreV1().ConfigMaps("default").Create(t.Context(), name, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := l.RESTConfig(Admin)
	second.Host = l.APIServerURL(1)
	client, err := kubernetes.NewForConfig(second)
	if err != nil {
		t.Fatal(err)
	}
	member, ok := l.Process("etcd-2")
	if !ok {
		t.Fatal("there is no third etcd member")
	}
	if err := member.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second API server, with two of three members", func() bool {
		_, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), name.Name, metav1.GetOptions{})
		return err == nil
	})
}

func TestAPIServerComesBackAfterACrash(t *testing.T) {
	l := Start(t, Options{Dir: t.TempDir(), Nodes: 1})
	p, ok := l.Process(KindAPIServer)
	if !ok {
		t.Fatal("there is no API server")
	}
	p.Kill()
	client := clientOf(t, l, Admin)
	eventually(t, "the API server's return", func() bool {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	if p.Restarts() != 1 {
		t.Errorf("restarts = %d, want 1", p.Restarts())
	}
}

func TestFrontDoorTakesTheClients(t *testing.T) {
	var called string
	l := Start(t, Options{Nodes: 1, FrontDoor: func(ctx context.Context, l *Lab) (string, string, error) {
		_, err := l.client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return "", "", err
		}
		called = strings.Replace(l.APIServerURL(0), "127.0.0.1", "localhost", 1)
		return called, l.CAFile(), nil
	}})
	data, err := os.ReadFile(filepath.Join(l.Dir(), KindScheduler+".kubeconfig"))
	if err != nil || called == "" || !strings.Contains(string(data), called) {
		t.Errorf("the scheduler's kubeconfig does not name the front door %q (%v)", called, err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	l := Start(t, Options{Dir: dir, Nodes: 1, Bounds: map[string]Bounds{KindAPIServer: {CPU: 2, Memory: 2 << 30}}})
	before, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(before.alive()); got != 5 {
		t.Fatalf("%d processes are recorded and run, want 5", got)
	}
	if _, err := prepare(Options{Dir: dir}); err == nil {
		t.Error("a second lab was allowed in the same folder")
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range before.Processes {
		if isProcess(p.PID, p.StartTime) {
			t.Errorf("%s (%d) is left", p.Name, p.PID)
		}
	}
	for _, group := range before.Groups {
		if _, err := os.Stat(group); err == nil {
			t.Errorf("control group %s is left", group)
		}
	}
	if _, err := l.Run(t.Context(), childSpec("late", "sleep")); err == nil {
		t.Error("a process was started in a lab that is down")
	}
	if err := l.Down(t.Context()); err != nil {
		t.Errorf("second Down: %v", err)
	}
}

func TestKubectlWorks(t *testing.T) {
	l := small(t)
	kubectl := filepath.Join(l.BinDir(), "kubectl")
	if _, err := os.Stat(kubectl); err != nil {
		t.Fatalf("%v; run 'make control-plane'", err)
	}
	config := filepath.Join(t.TempDir(), "kubeconfig")
	data, err := Kubeconfig(l.Dir(), Admin, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), kubectl, "--kubeconfig", config, "logs", "-n", "app-0", "deploy/web-0", "-c", "web").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "simulated") {
		t.Errorf("kubectl logs says %s (%v)", out, err)
	}
}
