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
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
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

func TestBallastOnALab(t *testing.T) {
	r := start(t, lab.Options{Nodes: 5, Pods: 300, Bounds: map[string]lab.Bounds{lab.KindAPIServer: {CPU: 0.5}}})
	stock := r.specs()
	if seats := r.seats(); seats != (plan.Seats{Least: 598, Most: 600}) {
		t.Errorf("the API server has 600 seats, inferred %+v", seats)
	}
	var clients []*kubernetes.Clientset
	for i := range 4 {
		clients = append(clients, r.user(fmt.Sprint("storm-", i)))
	}
	const wanted = 12
	open, _ := r.peak(clients, 3*wanted)
	t.Logf("without a ballast the storm uses %v seats", open)

	w := r.writer("one")
	for _, step := range []int{200, 100, 50, 25, wanted} {
		if err := w.Apply(t.Context(), r.plan(step)); err != nil {
			t.Fatal(err)
		}
	}
	p := r.plan(wanted)
	// Its own figures, once the API server has them.
	r.seats()
	limits := r.about().Seats
	sum := 0.0
	for _, row := range p.Rows {
		if limits[row.Name] != float64(row.SeatsAfter) {
			t.Errorf("%s: planned %d seats, the API server says %v", row.Name, row.SeatsAfter, limits[row.Name])
		}
		switch row.Role {
		case plan.RoleElse:
			sum += limits[row.Name]
		case plan.RoleProtected:
			if limits[row.Name] < float64(row.SeatsBefore) {
				t.Errorf("%s had %d seats and has %v", row.Name, row.SeatsBefore, limits[row.Name])
			}
		}
	}
	if sum > wanted || sum < float64(wanted-p.Error) {
		t.Errorf("everyone else has %v seats, wanted %d with at most %d less", sum, wanted, p.Error)
	}
	held, answered := r.peak(clients, 1e9)
	t.Logf("with a ballast that leaves %d the storm uses up to %v seats; %d LISTs were answered", p.Else, held, answered)
	if held > wanted || open <= 2*wanted {
		t.Errorf("the storm used %v seats before and %v with %d wanted", open, held, wanted)
	}
	if answered == 0 {
		t.Error("nothing was answered at all")
	}

	t.Run("the API server leaves the edits alone", func(t *testing.T) {
		edited := r.specs()
		// It looks over its own levels at every start, and each minute after.
		server, _ := r.lab.Process(lab.KindAPIServer)
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "the API server answers", time.Minute, func() bool {
			_, err := r.client.Discovery().ServerVersion()
			return err == nil
		})
		hook := func() bool {
			ok, err := r.client.Discovery().RESTClient().Get().AbsPath("/readyz/poststarthook/priority-and-fairness-config-producer").DoRaw(t.Context())
			return err == nil && string(ok) == "ok"
		}
		testkit.Within(t, "the API server has looked over its levels", time.Minute, hook)
		r.seats()
		if diff := cmp.Diff(edited, r.specs()); diff != "" {
			t.Errorf("the API server changed what was edited (-written +found):\n%s", diff)
		}
		if got := r.about().Seats[plan.Ballast]; got < 300 {
			t.Errorf("after the restart the ballast has %v seats", got)
		}
	})

	t.Run("another process restores from the cluster alone", func(t *testing.T) {
		restored, err := r.writer("another").Restore(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Restored{Ballast: true, Levels: []string{"node-high", "system", "leader-election"}, Left: []string{}}, restored); diff != "" {
			t.Errorf("restored (-want +got):\n%s", diff)
		}
		r.wantStock(stock)
		if r.seats(); r.about().Seats["workload-low"] != 245 {
			t.Errorf("workload-low has %v seats again", r.about().Seats["workload-low"])
		}
	})

	t.Run("the journal knows what the cluster has lost", func(t *testing.T) {
		if err := w.Apply(t.Context(), r.plan(100)); err != nil {
			t.Fatal(err)
		}
		strip := []byte(`{"metadata":{"annotations":{"` + originalKey + `":null}}}`)
		if _, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().Patch(t.Context(), "system", types.MergePatchType, strip, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := r.specs()
		got := after["level system"].([]any)[2].(flowcontrolv1.PriorityLevelConfigurationSpec)
		if got.Limited == nil || *got.Limited.NominalConcurrencyShares != 30 || *got.Limited.LendablePercent != 33 {
			t.Errorf("system was not restored: %+v", got.Limited)
		}
		r.wantStock(stock)
	})

	t.Run("what somebody else changed is theirs", func(t *testing.T) {
		if err := w.Apply(t.Context(), r.plan(100)); err != nil {
			t.Fatal(err)
		}
		patch := func(shares int) {
			t.Helper()
			body := fmt.Appendf(nil, `{"spec":{"limited":{"nominalConcurrencyShares":%d,"lendablePercent":33}}}`, shares)
			if _, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().Patch(t.Context(), "system", types.MergePatchType, body, metav1.PatchOptions{FieldManager: "an-admin"}); err != nil {
				t.Fatal(err)
			}
		}
		patch(77)
		var foreign *ForeignError
		if err := w.Apply(t.Context(), r.plan(50)); !errors.As(err, &foreign) || !strings.Contains(err.Error(), "an-admin") {
			t.Errorf("want a ForeignError that names an-admin, got %v", err)
		}
		restored, err := w.Restore(t.Context())
		if err != nil || !cmp.Equal(restored.Left, []string{"system"}) {
			t.Errorf("restored %+v, %v", restored, err)
		}
		if now := r.state(); len(now.Edited) > 0 || now.Ballast > 0 {
			t.Errorf("left behind: %+v", now.Edited)
		}
		if got := levelOf(r.state().objects["system"]).Shares; got != 77 {
			t.Errorf("system has %d shares, the admin wanted 77", got)
		}
		patch(30)
	})
}

func TestJailOnALab(t *testing.T) {
	r := start(t, lab.Options{})
	stock := r.specs()
	w := r.writer("one")
	inmate, other := r.user("inmate"), r.user("other")
	list := func(client *kubernetes.Clientset, within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		return err
	}
	if err := list(inmate, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	jail := Jail{User: "inmate", For: time.Hour, Reason: "INC-42"}
	if _, err := w.Jail(t.Context(), jail, true); err != nil {
		t.Fatal(err)
	}
	r.wantStock(stock) // a dry run

	jailed, err := w.Jail(t.Context(), jail, false)
	if err != nil {
		t.Fatal(err)
	}
	inJail := func(counter string) (n float64) {
		err := r.servers[0].read(t.Context(), func(body io.Reader) error {
			text, err := io.ReadAll(body)
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, counter+"{") && strings.Contains(line, `priority_level="`+JailLevel+`"`) {
					var value float64
					if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &value); err != nil {
						return err
					}
					n += value
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	testkit.Within(t, "the jail is in force", 10*time.Second, func() bool { return list(inmate, 300*time.Millisecond) != nil })
	var let atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 5 {
				if list(inmate, 2*time.Second) == nil {
					let.Add(1)
				}
			}
		})
	}
	for range 20 {
		if err := list(other, 10*time.Second); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
	all.Wait()
	dispatched, rejected := inJail("apiserver_flowcontrol_dispatched_requests_total"), inJail("apiserver_flowcontrol_rejected_requests_total")
	if let.Load() > 0 || dispatched > 0 || rejected < 100 {
		t.Errorf("%d requests were let out of jail; the API server says it dispatched %v and rejected %v", let.Load(), dispatched, rejected)
	}
	t.Logf("100 requests of the inmate and their retries: %v dispatched, %v rejected", dispatched, rejected)

	longer := jail
	longer.For = 2 * time.Hour
	if again, err := w.Jail(t.Context(), longer, false); err != nil || again.Name != jailed.Name {
		t.Errorf("to jail again is to jail longer: %+v, %v", again, err)
	}
	if jails := r.state().Jails; len(jails) != 1 || time.Until(jails[0].Expires) < 100*time.Minute || jails[0].Reason != "INC-42" {
		t.Errorf("jails: %+v", jails)
	}

	t.Run("verbs", func(t *testing.T) {
		if _, err := w.Jail(t.Context(), Jail{User: "other", Verbs: []string{"list"}, For: time.Hour}, false); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "LISTs are in jail", 10*time.Second, func() bool { return list(other, 300*time.Millisecond) != nil })
		if _, err := other.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Errorf("GETs are not: %v", err)
		}
	})

	t.Run("unjail", func(t *testing.T) {
		if err := w.Unjail(t.Context(), "seakeep-jail-nobody"); !errors.Is(err, ErrNoJail) {
			t.Errorf("want ErrNoJail, got %v", err)
		}
		if err := w.Unjail(t.Context(), jailed.Name); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "the inmate is free", 10*time.Second, func() bool { return list(inmate, time.Second) == nil })
	})

	t.Run("time over", func(t *testing.T) {
		later := NewWriter(Options{Client: r.client, Holder: "later", Now: func() time.Time { return time.Now().Add(61 * time.Minute) }, Log: r.log()})
		if err := later.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wantStock(stock)
		testkit.Within(t, "the other is free", 10*time.Second, func() bool { return list(other, time.Second) == nil })
	})
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
