package keeper_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// What follows is tried on a real etcd and real API servers. Keepers follow the first of two API servers; while that one is
// down, the test changes the cluster through the second.

const (
	services  = 40
	endpoints = 5
	caseLabel = "case"
)

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

func twoAPIServers(t *testing.T) (*lab.Lab, kubernetes.Interface) {
	t.Helper()
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), APIServers: 2})
	config := l.RESTConfig(lab.Masters)
	config.Host = l.APIServerURL(1)
	config.QPS, config.Burst = 500, 1000
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	check(t, err)
	return l, client
}

// populate makes the headless services of one case, each with a slice, in a namespace of its own. Only keepers of that case
// see them.
func populate(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	selected := map[string]string{caseLabel: name}
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: selected}}, metav1.CreateOptions{})
	check(t, err)
	for i := range services {
		_, err := client.CoreV1().Services(name).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Labels: selected}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone},
		}, metav1.CreateOptions{})
		check(t, err)
		_, err = client.DiscoveryV1().EndpointSlices(name).Create(t.Context(), sliceOf(name, i, 10, 0, endpoints), metav1.CreateOptions{})
		check(t, err)
	}
}

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// sliceOf is a service's slice with the endpoints from first to last, at addresses of a network.
func sliceOf(namespace string, i, network, first, last int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName(i), Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i), caseLabel: namespace},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{},
	}
	for e := first; e < last; e++ {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", network, i, e+1)}, NodeName: new(fmt.Sprintf("node-%d", (i+e)%20)),
		})
	}
	return s
}

// kept is a keeper that follows the first API server and sees one case.
type kept struct {
	*keeper.Keeper
	stop func()
}

func keep(t *testing.T, l *lab.Lab, name, dir string) *kept {
	t.Helper()
	selector := labels.SelectorFromSet(labels.Set{caseLabel: name})
	config := l.RESTConfig(lab.Masters)
	config.Host = l.APIServerURL(0)
	api, err := source.NewAPI(config, keeper.API, source.Selectors{Objects: selector, Namespaces: selector})
	check(t, err)
	disk, err := snapshot.Open(snapshot.Options{Dir: dir})
	check(t, err)
	k, err := keeper.New(keeper.Options{
		Store: store.New(time.Now), Sources: []keeper.Source{api}, Snapshot: disk, Registerer: prometheus.NewRegistry(),
		// All that is shortened is waiting.
		StaleAfter: time.Second, RelistSpread: time.Millisecond, SaveAfter: 100 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	check(t, err)
	check(t, k.Restore())
	return (&kept{Keeper: k}).run(t, api)
}

func (k *kept) run(t *testing.T, api *source.API) *kept {
	t.Helper()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- k.Run(ctx) }()
	k.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		api.Close()
	})
	t.Cleanup(k.stop)
	return k
}

// served are the ready addresses of each service of a namespace.
func (k *kept) served(namespace string) map[string][]string {
	out := map[string][]string{}
	v := k.Store().View()
	for i := range services {
		for s := range v.SlicesOf(namespace, serviceName(i)) {
			for e := range s.Endpoints() {
				if e.Ready {
					out[serviceName(i)] = append(out[serviceName(i)], e.Addr.String())
				}
			}
		}
		slices.Sort(out[serviceName(i)])
	}
	return out
}

func (k *kept) count(namespace string) (with, addresses int) {
	for _, list := range k.served(namespace) {
		with, addresses = with+1, addresses+len(list)
	}
	return with, addresses
}

func (k *kept) wantCount(t *testing.T, when, namespace string, with, addresses int) {
	t.Helper()
	if w, a := k.count(namespace); w != with || a != addresses {
		t.Errorf("%s, %d services have %d endpoints, want %d with %d", when, w, a, with, addresses)
	}
}

func (k *kept) is(state keeper.State) func() bool {
	return func() bool { return k.Status().State == state }
}

// saved waits until what the keeper came up with is on disk.
func (k *kept) saved(t *testing.T) {
	t.Helper()
	eventually(t, "the snapshot", func() bool { return !k.Status().SnapshotSaved.IsZero() })
}

// kill ends a process as a crash does, and keeps it down.
func kill(t *testing.T, l *lab.Lab, name string) *lab.Process {
	t.Helper()
	p, ok := l.Process(name)
	if !ok {
		t.Fatalf("the lab has no %s", name)
	}
	check(t, p.Signal(syscall.SIGKILL))
	check(t, p.Stop(t.Context()))
	return p
}

// An API server comes back with 30 % fewer endpoints, with none at all, with other ones. What looks like an accident is held,
// and can be let go; what replaces is served at once. One who was restarted meanwhile judges alike.
func TestAPIServerComesBackChanged(t *testing.T) {
	l, client := twoAPIServers(t)
	cases := map[string]struct {
		change func(t *testing.T, name string)
		// right after, and once what was held is let go
		state               keeper.State
		with, addresses     int
		released, remaining int
	}{
		"same":     {func(*testing.T, string) {}, keeper.Live, services, services * endpoints, services, services * endpoints},
		"fewer":    {func(t *testing.T, name string) { takeAway(t, client, name) }, keeper.Guarded, services, services * endpoints, services - 6, services * endpoints * 7 / 10},
		"zero":     {func(t *testing.T, name string) { empty(t, client, name) }, keeper.Guarded, services, services * endpoints, 0, 0},
		"replaced": {func(t *testing.T, name string) { replace(t, client, name) }, keeper.Live, services, services * endpoints, services, services * endpoints},
	}
	through, restarted := map[string]*kept{}, map[string]*kept{}
	dirs := map[string]string{}
	for name := range cases {
		populate(t, client, name)
		dirs[name] = t.TempDir()
		through[name], restarted[name] = keep(t, l, name, t.TempDir()), keep(t, l, name, dirs[name])
	}
	for name := range cases {
		for _, k := range []*kept{through[name], restarted[name]} {
			eventually(t, "all of the case "+name, func() bool { _, n := k.count(name); return n == services*endpoints && k.is(keeper.Live)() })
			k.saved(t)
		}
	}

	api := kill(t, l, lab.KindAPIServer)
	for name, tc := range cases {
		restarted[name].stop()
		restarted[name] = keep(t, l, name, dirs[name])
		if s := restarted[name].Status(); s.State != keeper.Restored || !s.Stale {
			t.Errorf("%s: restarted without an API server it is %s", name, s.State)
		}
		restarted[name].wantCount(t, "restarted without an API server", name, services, services*endpoints)
		eventually(t, "staleness", func() bool { return through[name].Status().Stale })
		through[name].wantCount(t, "without an API server", name, services, services*endpoints)
		tc.change(t, name)
	}
	check(t, api.Start(t.Context()))

	for name, tc := range cases {
		for who, k := range map[string]*kept{"it that ran on": through[name], "it that was restarted": restarted[name]} {
			t.Run(name+", "+who, func(t *testing.T) {
				eventually(t, "the state "+string(tc.state), k.is(tc.state))
				k.wantCount(t, "with the API server back", name, tc.with, tc.addresses)
				if name == "replaced" {
					eventually(t, "the new addresses alone", func() bool {
						return slices.Equal(k.served(name)[serviceName(7)], []string{"10.20.7.1", "10.20.7.2", "10.20.7.3", "10.20.7.4", "10.20.7.5"})
					})
				}
				released, err := k.Release(t.Context(), func(guard.Hold) bool { return true })
				check(t, err)
				if (released > 0) != (tc.state == keeper.Guarded) {
					t.Errorf("%d removals were held", released)
				}
				eventually(t, "the state live", k.is(keeper.Live))
				k.wantCount(t, "with everything released", name, tc.released, tc.remaining)
			})
		}
	}
}

// takeAway leaves 70 % of the endpoints: six services lose all of theirs, thirty lose one.
func takeAway(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	api := client.DiscoveryV1().EndpointSlices(name)
	for i := range 6 {
		check(t, api.Delete(t.Context(), serviceName(i), metav1.DeleteOptions{}))
	}
	for i := range 30 {
		_, err := api.Update(t.Context(), sliceOf(name, 6+i, 10, 1, endpoints), metav1.UpdateOptions{})
		check(t, err)
	}
}

// empty leaves none: half of the slices are gone, half are empty.
func empty(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	api := client.DiscoveryV1().EndpointSlices(name)
	for i := range services {
		if i%2 == 0 {
			check(t, api.Delete(t.Context(), serviceName(i), metav1.DeleteOptions{}))
			continue
		}
		_, err := api.Update(t.Context(), sliceOf(name, i, 10, 0, 0), metav1.UpdateOptions{})
		check(t, err)
	}
}

// replace moves every endpoint to another address.
func replace(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	for i := range services {
		_, err := client.DiscoveryV1().EndpointSlices(name).Update(t.Context(), sliceOf(name, i, 20, 0, endpoints), metav1.UpdateOptions{})
		check(t, err)
	}
}

// etcd is restored from an old backup: its data folder is what it was before half of the services were made. Versions run
// backwards, so what is missing is held, also by one who was restarted meanwhile; and what comes after is followed.
func TestEtcdRestoredFromABackup(t *testing.T) {
	l, client := twoAPIServers(t)
	populate(t, client, "before")
	etcd := filepath.Join(l.Dir(), lab.KindEtcd)
	backup := filepath.Join(t.TempDir(), "backup")
	down := func() []*lab.Process {
		return []*lab.Process{kill(t, l, lab.KindEtcd), kill(t, l, lab.KindAPIServer), kill(t, l, lab.KindAPIServer+"-1")}
	}
	up := func(processes []*lab.Process) {
		for _, p := range processes {
			check(t, p.Start(t.Context()))
		}
	}
	copyOver := func(to, from string) {
		check(t, os.RemoveAll(to))
		check(t, os.CopyFS(to, os.DirFS(from)))
		check(t, filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				return os.Chmod(path, 0o700) // etcd refuses a folder that others may read
			}
			return err
		}))
	}
	processes := down()
	copyOver(backup, etcd)
	up(processes)

	populate(t, client, "after")
	dir := t.TempDir()
	through, restarted := keep(t, l, "after", t.TempDir()), keep(t, l, "after", dir)
	older := keep(t, l, "before", t.TempDir())
	all := []*kept{through, restarted, older}
	for i, name := range []string{"after", "after", "before"} {
		eventually(t, "the data", func() bool { _, n := all[i].count(name); return n == services*endpoints && all[i].is(keeper.Live)() })
		all[i].saved(t)
	}

	processes = down()
	restarted.stop()
	restarted = keep(t, l, "after", dir)
	copyOver(etcd, backup)
	up(processes)
	for who, k := range map[string]*kept{"it that ran on": through, "it that was restarted": restarted} {
		eventually(t, who+" to hold what the backup lacks", k.is(keeper.Guarded))
		k.wantCount(t, "after the restore, "+who, "after", services, services*endpoints)
	}
	eventually(t, "what the backup has", older.is(keeper.Live))
	older.wantCount(t, "after the restore", "before", services, services*endpoints)

	// Somebody notices and makes them again, one of them elsewhere: that is news, and ends what is held of it.
	populateAgain(t, client, "after")
	for who, k := range map[string]*kept{"it that ran on": through, "it that was restarted": restarted} {
		eventually(t, who+" to follow the restored etcd", func() bool {
			return slices.Equal(k.served("after")[serviceName(3)], []string{"10.30.3.1"})
		})
		eventually(t, who+" to be live", k.is(keeper.Live))
	}
}

func populateAgain(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	populate(t, client, name)
	_, err := client.DiscoveryV1().EndpointSlices(name).Update(t.Context(), sliceOf(name, 3, 30, 0, 1), metav1.UpdateOptions{})
	check(t, err)
}
