package apf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/signals"
)

// rig is a lab of the test's own, because every test here changes what all clients get.
type rig struct {
	t       *testing.T
	lab     *lab.Lab
	client  kubernetes.Interface
	servers Servers
	dir     string
}

func clientOf(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func start(t *testing.T, o lab.Options) *rig {
	t.Helper()
	o.Dir = filepath.Join(t.TempDir(), "lab")
	l := lab.Start(t, o)
	r := &rig{t: t, lab: l, client: clientOf(t, l.RESTConfig(lab.Masters)), dir: t.TempDir()}
	web, err := rest.HTTPClientFor(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.APIServers() {
		r.servers = append(r.servers, Endpoint{Name: fmt.Sprint("API server ", i), URL: l.APIServerURL(i) + "/metrics", Client: web})
	}
	return r
}

func (r *rig) log() *slog.Logger { return slog.New(slog.NewTextHandler(r.t.Output(), nil)) }

// writer is another process, as far as the cluster knows.
func (r *rig) writer(name string) *Writer {
	r.t.Helper()
	journal, err := OpenJournal(filepath.Join(r.dir, name), types.UID("lab"))
	if err != nil {
		r.t.Fatal(err)
	}
	return NewWriter(Options{Client: r.client, Journal: journal, Holder: name, Lease: 3 * time.Second, Log: r.log()})
}

func (r *rig) state() *State {
	r.t.Helper()
	s, err := Read(r.t.Context(), r.client, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) about() signals.About {
	r.t.Helper()
	var about signals.About
	if err := r.servers[0].read(r.t.Context(), func(body io.Reader) (err error) {
		about, err = signals.ReadAbout(body)
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	return about
}

// seats waits until the API server's limits are those of the levels.
func (r *rig) seats() plan.Seats {
	r.t.Helper()
	var seats plan.Seats
	testkit.Within(r.t, "the API server has digested the levels", 30*time.Second, func() bool {
		var err error
		seats, err = r.servers.Seats(r.t.Context(), r.state().Now)
		if err != nil && !errors.Is(err, plan.ErrUnsettled) {
			r.t.Fatal(err)
		}
		return err == nil
	})
	return seats
}

func (r *rig) plan(wanted int) plan.Plan {
	r.t.Helper()
	p, err := plan.Make(plan.Request{Levels: r.state().Before, Seats: r.seats(), Protected: plan.Protected, Wanted: wanted})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// specs are the levels and schemas as an administrator sees them.
func (r *rig) specs() map[string]any {
	r.t.Helper()
	levels, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	schemas, err := r.client.FlowcontrolV1().FlowSchemas().List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	seen := map[string]any{}
	for _, l := range levels.Items {
		seen["level "+l.Name] = []any{l.Annotations, l.Labels, l.Spec}
	}
	for _, s := range schemas.Items {
		seen["schema "+s.Name] = []any{s.Annotations, s.Labels, s.Spec}
	}
	return seen
}

func (r *rig) wantStock(stock map[string]any) {
	r.t.Helper()
	if diff := cmp.Diff(stock, r.specs()); diff != "" {
		r.t.Errorf("not restored (-before +after):\n%s", diff)
	}
}

// user is somebody with all rights and no privilege.
func (r *rig) user(name string, groups ...string) *kubernetes.Clientset {
	r.t.Helper()
	_, err := r.client.RbacV1().ClusterRoleBindings().Create(r.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return clientOf(r.t, r.lab.RESTConfig(lab.User(name, groups...)))
}

// ordinary are the levels of everyone else.
var ordinary = []string{"catch-all", "global-default", "workload-high", "workload-low"}

// executing reads, once, the seats in use by level.
func (r *rig) executing() map[string]float64 {
	r.t.Helper()
	seats := map[string]float64{}
	err := r.servers[0].read(r.t.Context(), func(body io.Reader) error {
		text, err := io.ReadAll(body)
		for line := range strings.Lines(string(text)) {
			const name = "apiserver_flowcontrol_current_executing_seats{"
			rest, ok := strings.CutPrefix(line, name)
			if !ok {
				continue
			}
			_, level, _ := strings.Cut(rest, `priority_level="`)
			level, _, _ = strings.Cut(level, `"`)
			var value float64
			if _, err := fmt.Sscan(rest[strings.LastIndex(rest, " ")+1:], &value); err != nil {
				return err
			}
			seats[level] += value
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	return seats
}

// storm LISTs all pods from so many clients at a time until it is stopped, and returns how many were answered.
func storm(ctx context.Context, clients []*kubernetes.Clientset, n int) (stop func() (answered int64)) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	var answered atomic.Int64
	for i := range n {
		client := clients[i%len(clients)].CoreV1().RESTClient()
		all.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.Get().AbsPath("/api/v1/pods").DoRaw(ctx); err == nil { // not decoded: the clients share the processor
					answered.Add(1)
				}
			}
		})
	}
	return func() int64 {
		cancel()
		all.Wait()
		return answered.Load()
	}
}

// peak is the most seats that everyone else was seen using while a storm ran: looked at often enough, and until it is enough.
func (r *rig) peak(clients []*kubernetes.Clientset, enough float64) (most float64, answered int64) {
	r.t.Helper()
	stop := storm(r.t.Context(), clients, 40)
	began := time.Now()
	for looks := 0; most < enough && (looks < 10 || time.Since(began) < 10*time.Second); looks++ {
		sum := 0.0
		now := r.executing()
		for _, level := range ordinary {
			sum += now[level]
		}
		most = max(most, sum)
	}
	return most, stop()
}

// A gate that says what a test wants it to say.
func gateSaying(seats *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := seats.Load()
		if n < 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "# TYPE %s gauge\n%s %d\nother 1\n", gateLimit, gateLimit, n)
	})
}
