package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// controllerRuntime is a minor of controller-runtime, and so of client-go, that the reconciler is built with.
type controllerRuntime struct{ name, modfile string }

// controllerRuntimes are those of the three minors of Kubernetes that the gate is tested with, and the one this module's client-go
// is of. The newest and the oldest are tested everywhere; those between them, each of which takes a bare machine minutes to
// compile, where minors are what is tested (make test-skew).
func controllerRuntimes() []controllerRuntime {
	all := []controllerRuntime{{"v0-25", "go.mod"}, {"v0-24", "v0.24.mod"}, {"v0-23", "v0.23.mod"}, {"v0-22", "v0.22.mod"}}
	if os.Getenv("SEAKEEP_TEST_EVERY_MINOR") == "" {
		return []controllerRuntime{all[0], all[len(all)-1]}
	}
	return all
}

// TestControllersOverRestarts runs reconcilers made with controller-runtime, of several minors, with and without WatchList,
// through a gate that shares everything, and two beside it: their caches select by namespace, label and field, and one
// holds metadata only. What they read is written, changed, deleted, and moved in and out of their selectors, while the gate
// is restarted and the API server is killed, and some start while one or the other is away. In the end each has written
// what there is to read: those behind the gate as those that never met one.
func TestControllersOverRestarts(t *testing.T) {
	versions := controllerRuntimes()
	binaries := buildReconcilers(t, versions)
	l := lab.Start(t, lab.Options{Nodes: 1, Dir: t.TempDir()}) // of its own: it is broken
	port, err := l.NextPort()
	check(t, err)
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), More: everything})
	first := gatetest.Serve(t, l, file)
	dir := t.TempDir()
	throughGate, direct := filepath.Join(dir, "gate"), filepath.Join(dir, "direct")
	check(t, l.WriteKubeconfig(throughGate, lab.Admin, first.URL, l.CAFile()))
	check(t, l.WriteKubeconfig(direct, lab.Admin, l.APIServerURL(0), l.CAFile()))
	lines := &lines{} // of a client that outlives a gate
	masters := gatetest.Clientset(t, lines.of(first.Direct(lab.Masters)))
	namespace(t, masters, reconciled)

	var running []*reconciler
	finish := sync.OnceFunc(func() {
		for _, r := range running {
			r.stop(t)
		}
		lines.cut()
	})
	t.Cleanup(finish)
	start := func(kubeconfig, name, binary string, watchList, patient bool) {
		running = append(running, startReconciler(t, binary, kubeconfig, name, watchList, patient))
	}
	for i, version := range versions {
		start(throughGate, version.name+"-watches", binaries[i], true, false)
		start(throughGate, version.name+"-lists", binaries[i], false, false)
	}
	start(direct, "direct-watches", binaries[0], true, false)
	start(direct, "direct-lists", binaries[0], false, false)

	s := &sources{kube: masters, random: rand.New(rand.NewPCG(3, 4)), present: map[string]source{}}
	s.write(t, 150)
	for _, r := range running {
		eventually(t, 2*time.Minute, func() error { return r.agrees(t, s) })
	}
	s.write(t, 40)
	first.Stop()
	s.write(t, 40) // while there is no gate
	for i, version := range versions {
		start(throughGate, version.name+"-before-the-gate", binaries[i], i%2 == 0, true)
	}
	second := gatetest.Serve(t, l, file)
	t.Cleanup(finish) // before the gate looks for what is left behind
	s.write(t, 40)
	server, _ := l.Process(lab.KindAPIServer)
	server.Kill()
	for i, version := range versions {
		start(throughGate, version.name+"-before-the-server", binaries[i], i%2 == 1, true)
	}
	s.write(t, 80) // it is started again by the lab

	for _, r := range running {
		eventually(t, 3*time.Minute, func() error { return r.agrees(t, s) })
	}
	s.write(t, 20) // and none of them has stopped since
	for _, r := range running {
		eventually(t, time.Minute, func() error { return r.agrees(t, s) })
	}
	answers, reads := counter(t, second, answersTotal), counter(t, second, readsTotal)
	events, delivered := counter(t, second, eventsTotal), counter(t, second, deliveredTotal)
	t.Logf("%d reconcilers; %v answers of %v reads through the first gate, %v of %v and %v events of %v through the second", len(running),
		counter(t, first, answersTotal), counter(t, first, readsTotal), answers, reads, delivered, events)
	for _, kind := range []string{"list", "watch-list"} { // whether two came at the same moment is chance
		if counter(t, first, answersTotal, kind) == 0 || counter(t, second, answersTotal, kind) == 0 {
			t.Errorf("no %s was answered from a shared read", kind)
		}
	}
	if delivered < 2*events {
		t.Errorf("little was shared: %v events of %v", delivered, events)
	}
	finish()
}

// buildReconcilers builds the reconciler with each minor of controller-runtime.
func buildReconcilers(t *testing.T, versions []controllerRuntime) []string {
	t.Helper()
	dir := t.TempDir()
	var binaries []string
	for _, version := range versions {
		binary := filepath.Join(dir, version.name)
		build := exec.CommandContext(t.Context(), "go", "build", "-C", "reconciler", "-modfile="+version.modfile, "-trimpath", "-o", binary, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // the race detector is for the gate
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the reconciler with %s: %v\n%s", version.modfile, err, out)
		}
		binaries = append(binaries, binary)
	}
	return binaries
}

// reconciled is the namespace that the reconcilers read.
const reconciled = "reconciled"

// reconciler is a process of one.
type reconciler struct {
	name   string
	cancel context.CancelFunc
	ended  chan struct{}
	// Of the process, when it has ended.
	err  error
	said bytes.Buffer
}

// startReconciler starts one. A patient one is started again when it ends, as a kubelet does: controller-runtime gives up
// when there is no API server to say what resources there are, by whatever way it is asked.
func startReconciler(t *testing.T, binary, kubeconfig, name string, watchList, patient bool) *reconciler {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reconciler{name: name, cancel: cancel, ended: make(chan struct{})}
	again := time.NewTicker(time.Second)
	go func() {
		defer close(r.ended)
		defer again.Stop()
		for {
			r.said.Reset()
			cmd := exec.CommandContext(ctx, binary, "-kubeconfig="+kubeconfig, "-namespace="+reconciled, "-name="+name)
			cmd.Env = append(os.Environ(), fmt.Sprintf("KUBE_FEATURE_WatchListClient=%t", watchList))
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 30 * time.Second
			cmd.Stdout, cmd.Stderr = &r.said, &r.said
			r.err = cmd.Run()
			if ctx.Err() != nil || !patient {
				return
			}
			<-again.C
		}
	}()
	return r
}

// stop tells it to end, and says so if it had done that before, or does it badly.
func (r *reconciler) stop(t *testing.T) {
	t.Helper()
	early := r.dead()
	r.cancel()
	<-r.ended
	if early || t.Failed() || r.err != nil && !errors.Is(r.err, context.Canceled) {
		t.Errorf("%s ended (by itself: %t) with %v:\n%s", r.name, early, r.err, tail(r.said.String(), 40))
	}
}

func (r *reconciler) dead() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// agrees says in what the reconciler's writes differ from what there is to read.
func (r *reconciler) agrees(t *testing.T, s *sources) error {
	t.Helper()
	if r.dead() {
		t.Fatalf("%s has ended", r.name)
	}
	got := map[string]string{}
	leases, err := s.kube.CoordinationV1().Leases(reconciled).List(t.Context(), metav1.ListOptions{LabelSelector: "by=" + r.name})
	if err != nil {
		return err
	}
	for _, lease := range leases.Items {
		got["configmap "+strings.TrimPrefix(lease.Name, r.name+"-")] = lease.Annotations["seen"]
	}
	pods, err := s.kube.CoreV1().Pods(reconciled).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodConditionType("example.com/"+r.name) {
				got["pod "+pod.Name] = condition.Message
			}
		}
	}
	accounts, err := s.kube.CoreV1().ServiceAccounts(reconciled).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, account := range accounts.Items {
		if value, there := account.Annotations["seen/"+r.name]; there {
			got["serviceaccount "+account.Name] = value
		}
	}
	if want := s.toSee(); !maps.Equal(got, want) {
		var differing []string
		for key := range want {
			if got[key] != want[key] {
				differing = append(differing, fmt.Sprintf("%s: %q instead of %q", key, got[key], want[key]))
			}
		}
		for key := range got {
			if _, there := want[key]; !there {
				differing = append(differing, key+" is not there to be seen")
			}
		}
		return fmt.Errorf("%s wrote of %d objects, where there are %d: %s", r.name, len(got), len(want), strings.Join(differing[:min(5, len(differing))], ", "))
	}
	return nil
}

// source is an object that reconcilers read: whether their caches select it, and what it says.
type source struct {
	selected bool
	says     string
}

// sources are the objects that reconcilers read. They are written directly.
type sources struct {
	kube    kubernetes.Interface
	random  *rand.Rand
	present map[string]source // by kind and name
	n       int
}

// toSee is what a reconciler has to write.
func (s *sources) toSee() map[string]string {
	want := map[string]string{"serviceaccount default": ""}
	for key, source := range s.present {
		if source.selected {
			want[key] = source.says
		}
	}
	return want
}

// write writes so often, at random. Where the API server is away, a write waits for it.
func (s *sources) write(t *testing.T, times int) {
	t.Helper()
	for range times {
		s.n++
		says, chosen := strconv.Itoa(s.n), s.random.IntN(4) > 0
		switch name := fmt.Sprintf("object-%d", s.random.IntN(15)); s.random.IntN(4) {
		case 0, 1:
			label := map[bool]string{true: "yes", false: "no"}[chosen]
			s.put(t, "configmap", name, source{chosen, says}, s.random.IntN(4) == 0, objects{
				remove: func(ctx context.Context) error {
					return s.kube.CoreV1().ConfigMaps(reconciled).Delete(ctx, name, metav1.DeleteOptions{})
				},
				create: func(ctx context.Context) error {
					_, err := s.kube.CoreV1().ConfigMaps(reconciled).Create(ctx, &corev1.ConfigMap{
						ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"reconcile": label}}, Data: map[string]string{"n": says},
					}, metav1.CreateOptions{})
					return err
				},
				change: func(ctx context.Context) error {
					patch := fmt.Sprintf(`{"metadata":{"labels":{"reconcile":%q}},"data":{"n":%q}}`, label, says)
					_, err := s.kube.CoreV1().ConfigMaps(reconciled).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
					return err
				},
			})
		case 2:
			// What a pod's scheduler is called cannot be changed.
			if before, there := s.present["pod "+name]; there {
				chosen = before.selected
			}
			scheduler := map[bool]string{true: "nobody", false: "somebody"}[chosen]
			s.put(t, "pod", name, source{chosen, says}, s.random.IntN(4) == 0, objects{
				remove: func(ctx context.Context) error {
					return s.kube.CoreV1().Pods(reconciled).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
				},
				create: func(ctx context.Context) error {
					_, err := s.kube.CoreV1().Pods(reconciled).Create(ctx, &corev1.Pod{
						ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"n": says}},
						Spec:       corev1.PodSpec{SchedulerName: scheduler, Containers: []corev1.Container{{Name: "c", Image: "registry.example.com/c:1"}}},
					}, metav1.CreateOptions{})
					return err
				},
				change: func(ctx context.Context) error {
					patch := fmt.Sprintf(`{"metadata":{"annotations":{"n":%q}}}`, says)
					_, err := s.kube.CoreV1().Pods(reconciled).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
					return err
				},
			})
		case 3:
			s.put(t, "serviceaccount", name, source{true, says}, s.random.IntN(4) == 0, objects{
				remove: func(ctx context.Context) error {
					return s.kube.CoreV1().ServiceAccounts(reconciled).Delete(ctx, name, metav1.DeleteOptions{})
				},
				create: func(ctx context.Context) error {
					_, err := s.kube.CoreV1().ServiceAccounts(reconciled).Create(ctx, &corev1.ServiceAccount{
						ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"n": says}},
					}, metav1.CreateOptions{})
					return err
				},
				change: func(ctx context.Context) error {
					patch := fmt.Sprintf(`{"metadata":{"labels":{"n":%q}}}`, says)
					_, err := s.kube.CoreV1().ServiceAccounts(reconciled).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
					return err
				},
			})
		}
	}
}

// objects write one object.
type objects struct{ create, change, remove func(context.Context) error }

// put writes an object until it is written. A write whose answer was lost may have been done: then the next finds it so.
func (s *sources) put(t *testing.T, kind, name string, to source, remove bool, o objects) {
	t.Helper()
	key := kind + " " + name
	_, there := s.present[key]
	eventually(t, time.Minute, func() error {
		switch {
		case there && remove:
			err := o.remove(t.Context())
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return err
		case there:
			return o.change(t.Context())
		default:
			err := o.create(t.Context())
			if apierrors.IsAlreadyExists(err) {
				err = nil
			}
			return err
		}
	})
	if there && remove {
		delete(s.present, key)
		return
	}
	s.present[key] = to
}
