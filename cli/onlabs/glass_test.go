package onlabs

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/link"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// roller is whom the ordinary way belongs to: an identity whose rights can be taken away.
var roller = lab.User("roller")

// glassRig is a rig whose ordinary ways can be cut, with a break-glass way beside each.
type glassRig struct {
	*rolloutRig
	links map[string]*link.Link
}

func newGlassRig(t *testing.T, small, large int) *glassRig {
	r := &glassRig{newRolloutRig(t, small, large), map[string]*link.Link{}}
	for cluster := range r.labs {
		r.allow(cluster)
		l, err := link.To(strings.TrimPrefix(r.labs[cluster].APIServerURL(0), "https://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		r.links[cluster] = l
	}
	r.fleet(lab.BreakGlass)
	return r
}

// allow gives roller its rights.
func (r *glassRig) allow(cluster string) {
	r.t.Helper()
	_, err := r.clients[cluster].RbacV1().ClusterRoleBindings().Create(r.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: roller.String()},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: roller.String()}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *glassRig) forbid(cluster string) {
	r.t.Helper()
	if err := r.clients[cluster].RbacV1().ClusterRoleBindings().Delete(r.t.Context(), roller.String(), metav1.DeleteOptions{}); err != nil {
		r.t.Error(err)
	}
}

// fleet writes the fleet with a break-glass identity.
func (r *glassRig) fleet(glass lab.Identity) {
	r.t.Helper()
	text := "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: labs\nclusters:\n"
	for cluster, l := range r.labs {
		ordinary, other := filepath.Join(r.dir, cluster+".kubeconfig"), filepath.Join(r.dir, cluster+".glass.kubeconfig")
		if err := l.WriteKubeconfig(ordinary, roller, "https://"+r.links[cluster].Address(), l.CAFile()); err != nil {
			r.t.Fatal(err)
		}
		if err := l.WriteKubeconfig(other, glass, "", ""); err != nil {
			r.t.Fatal(err)
		}
		text += fmt.Sprintf("- {name: %s, labels: {size: %[1]s}, kubeconfig: %s, breakGlass: %s}\n", cluster, ordinary, other)
	}
	r.write("fleet.yaml", text)
}

// upon runs the command, and does something at the very moment an event is told: nothing was done yet for what it says.
func (r *glassRig) upon(event string, do func(), args ...string) (out string, code int) {
	w := &uponWriter{event: event, do: do}
	code = cli.Run(r.t.Context(), &cli.Env{Args: r.args(args...), Stdin: strings.NewReader(""), Stdout: w, Stderr: r.t.Output(), Getenv: func(string) string { return "" }})
	return w.all.String(), code
}

type uponWriter struct {
	event string
	do    func()
	all   bytes.Buffer
}

var _ io.Writer = (*uponWriter)(nil)

func (w *uponWriter) Write(p []byte) (int, error) {
	n, err := w.all.Write(p)
	if w.do != nil && strings.Contains(w.all.String(), w.event) {
		w.do()
		w.do = nil
	}
	return n, err
}

// legOf is the last leg of a cluster.
func legOf(v engine.View, cluster string) (leg engine.LegView) {
	for _, s := range v.Stages {
		for _, l := range s.Legs {
			if l.Cluster == cluster {
				leg = l
			}
		}
	}
	return leg
}

// by are the moves and writes by a user: deletes of pods, writes of DaemonSets and of the rollout's lease.
func (r *glassRig) by(cluster, user string) (deletes, writes, leases int) {
	r.t.Helper()
	for _, e := range r.audit(cluster, "seakeep-rollout/") {
		switch {
		case e.User.Username != user || e.ResponseStatus.Code >= 300:
		case e.Verb == "delete" && e.ObjectRef.Resource == "pods":
			deletes++
		case e.Verb == "update" && e.ObjectRef.Resource == "daemonsets":
			writes++
		case e.Verb == "update" && e.ObjectRef.Resource == "leases" && strings.HasPrefix(e.ObjectRef.Name, "seakeep-rollout-"):
			leases++
		}
	}
	return deletes, writes, leases
}

// The way back goes on by the break-glass way when the ordinary one is cut, and nothing else goes by it.
func TestRolloutGoesBackByBreakGlass(t *testing.T) {
	r := newGlassRig(t, 3, 9)
	for _, name := range []string{"killed", "stuck"} {
		for cluster, client := range r.clients {
			rollouttest.DaemonSet(t, client, "telemetry", name, r.sizes[cluster])
		}
	}
	file := r.rollout("killed", agent2, "")

	// What may not do what the way back needs is found before anything moves.
	r.fleet(lab.User("nobody"))
	out := r.run(cli.ExitUsage, "run", "-f", file)
	for _, want := range []string{"cluster large: breakGlass may not", "delete pods in telemetry", "update daemonsets.apps killed in telemetry", "update leases.coordination.k8s.io in kube-system"} {
		if !strings.Contains(out, want) {
			t.Errorf("printed:\n%s\nwant %q", out, want)
		}
	}
	r.fleet(lab.BreakGlass)
	r.run(cli.ExitOK, "run", "-f", file)
	r.want("killed", map[string]int{agent2: 3}, map[string]int{agent2: 9})
	for cluster := range r.labs {
		if deletes, writes, leases := r.by(cluster, lab.BreakGlass.String()); deletes+writes+leases > 0 {
			t.Errorf("%s: on the way forth %d deletes, %d writes and %d leases went by break-glass", cluster, deletes, writes, leases)
		}
	}

	// It is cut in the middle of the way back, the process is killed while it goes by break-glass, and the next one finds it cut.
	id := r.status("killed").ID
	r.run(cli.ExitOK, "rollback", "killed")
	child, ended := r.spawnRollout("--continue", id)
	testkit.Within(t, "the large cluster is on its way back", time.Minute, func() bool {
		l := legOf(r.status("killed"), "large")
		return r.status("killed").Phase == journal.RollingBack && l.ExposedNodes < 9
	})
	r.links["large"].Refuse()
	testkit.Within(t, "the large cluster goes by break-glass", 30*time.Second, func() bool { return legOf(r.status("killed"), "large").BreakGlass != "" })
	if why := legOf(r.status("killed"), "large").BreakGlass; !strings.Contains(why, "the ordinary way has failed for ") {
		t.Errorf("the status says %q", why)
	}
	if v := r.status("killed"); v.Phase != journal.RollingBack {
		t.Fatalf("the run is over before it could be killed: %s", v.Phase)
	}
	_ = child.Process.Kill()
	<-ended
	r.links["small"].Refuse()
	killed := 1 + r.killOver(rand.New(rand.NewPCG(20241211, 7)), cli.ExitFindings, "--continue", id)
	t.Logf("killed %d times on the way back", killed)
	v := r.status("killed")
	told := slices.IndexFunc(v.Events, func(e journal.Event) bool { return e.Cluster == "large" && e.Reason == "BreakGlass" })
	if v.Phase != journal.RolledBack || told < 0 || !strings.Contains(v.Events[told].Message, "goes on by the break-glass way: the ordinary way has failed for ") {
		t.Errorf("it ended as %s, with %+v", v.Phase, v.Events)
	}
	r.want("killed", map[string]int{agent1: 3}, map[string]int{agent1: 9})
	for cluster, nodes := range r.sizes {
		r.onceEach(cluster, 2*nodes)
	}
	deletes, writes, leases := r.by("large", lab.BreakGlass.String())
	t.Logf("by break-glass on the large cluster: %d deletes, %d writes, %d leases", deletes, writes, leases)
	if deletes == 0 || writes == 0 || leases == 0 {
		t.Error("something did not go by it")
	}
	for _, l := range r.links {
		l.Restore()
	}

	// A change fails, and at that moment the ordinary way swallows what is sent.
	stuck := r.stuck("")
	cutAt := time.Time{}
	out, code := r.upon(" Failed: ", func() { r.links["small"].Silence(); cutAt = time.Now() }, "run", "-f", stuck)
	t.Logf("back %v after the cut:\n%s", time.Since(cutAt).Round(100*time.Millisecond), out)
	if code != cli.ExitFindings || !strings.Contains(out, "ROLLEDBACK") || !strings.Contains(out, "small  BreakGlass: ") || !strings.Contains(out, "small  reached by break-glass: the ordinary way ") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("stuck", map[string]int{agent1: 3}, map[string]int{agent1: 9})
	r.onceEach("small", 2*3+2)
	r.links["small"].Restore()

	// The process dies on its way forth, and the ordinary ways are cut: it is told to go back, and does.
	child, ended = r.spawnRollout("-f", file)
	testkit.Within(t, "it goes forth", time.Minute, func() bool {
		v := r.status("killed")
		return v.Phase == journal.Running && legOf(v, "large").ExposedNodes > 0
	})
	_ = child.Process.Kill()
	<-ended
	for _, l := range r.links {
		l.Refuse()
	}
	id = r.status("killed").ID
	r.run(cli.ExitUsage, "run", "--continue", id)
	r.run(cli.ExitOK, "rollback", "killed")
	r.run(cli.ExitFindings, "run", "--continue", id)
	r.want("killed", map[string]int{agent1: 3}, map[string]int{agent1: 9})
}

// What is forbidden is an answer: whoever may no longer do something does not do it by break-glass. Where nothing is answered because
// the API server has no seat left for the ordinary way, it is.
func TestRolloutTellsAnswersFromFailures(t *testing.T) {
	r := newGlassRig(t, 2, 3)
	for cluster, client := range r.clients {
		rollouttest.DaemonSet(t, client, "telemetry", "refused", r.sizes[cluster])
	}
	r.run(cli.ExitOK, "run", "-f", r.rollout("refused", agent2, ""))
	id := r.status("refused").ID
	r.run(cli.ExitOK, "rollback", "refused")
	var out string
	ended := make(chan int, 1)
	go func() {
		var code int
		out, code = r.upon("RollingBack: ", func() { r.forbid("large") }, "run", "--continue", id)
		ended <- code
	}()
	refused := func() (n int) {
		for _, e := range r.audit("large", "seakeep-rollout/") {
			if e.User.Username == roller.String() && e.ObjectRef.Resource == "leases" && e.ResponseStatus.Code == 403 {
				n++
			}
		}
		return n
	}
	// The lease is asked for every round, 200 ms, and the patience is 1 s.
	testkit.Within(t, "it was refused for long", time.Minute, func() bool { return refused() >= 20 })
	r.allow("large")
	if code := <-ended; code != cli.ExitFindings || strings.Contains(out, "BreakGlass") || !strings.Contains(out, "ROLLEDBACK") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("refused", map[string]int{agent1: 2}, map[string]int{agent1: 3})
	if deletes, writes, leases := r.by("large", lab.BreakGlass.String()); deletes+writes+leases > 0 {
		t.Errorf("%d deletes, %d writes and %d leases went by break-glass", deletes, writes, leases)
	}

	r.run(cli.ExitOK, "run", "-f", r.rollout("refused", agent2, "")) // a new run, because the one before is over
	id = r.status("refused").ID
	r.run(cli.ExitOK, "rollback", "refused")
	jailed := time.Time{}
	out, code := r.upon("RollingBack: ", func() { r.jail("large"); jailed = time.Now() }, "run", "--continue", id)
	t.Logf("back %v after there were no seats:\n%s", time.Since(jailed).Round(100*time.Millisecond), out)
	if code != cli.ExitFindings || !strings.Contains(out, "ROLLEDBACK") || !strings.Contains(out, "large  BreakGlass: ") || strings.Contains(out, "small  BreakGlass: ") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("refused", map[string]int{agent1: 2}, map[string]int{agent1: 3})
	r.onceEach("large", 4*3)
}

// jail leaves the ordinary way no seat.
func (r *glassRig) jail(cluster string) {
	writer := apf.NewWriter(apf.Options{Client: r.clients[cluster], Holder: "a-test", Log: slog.New(slog.DiscardHandler)})
	if _, err := writer.Jail(r.t.Context(), apf.Jail{User: roller.String(), For: time.Hour, Reason: "a test"}, false); err != nil {
		r.t.Error(err)
	}
}
