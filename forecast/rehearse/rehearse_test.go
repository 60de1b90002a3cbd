package rehearse

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// TestMain lets this binary be the program that is rehearsed: an agent that asks for its node's pods four times a second.
func TestMain(m *testing.M) {
	switch os.Getenv("REHEARSED") {
	case "":
		os.Exit(m.Run())
	case "agent":
		fmt.Fprintln(os.Stderr, agent(os.Args[len(os.Args)-1]))
		os.Exit(1)
	}
	fmt.Println("the configuration is missing")
	os.Exit(3)
}

func agent(selector string) error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for tick := time.NewTicker(250 * time.Millisecond); ; <-tick.C {
		if _, err := client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{FieldSelector: selector}); err != nil {
			return err
		}
	}
}

func TestRehearsal(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 4, Pods: 20})
	config := l.RESTConfig(lab.Masters)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(l.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	options := Options{
		Client: client, Server: l.APIServerURL(0), CA: authority, Dir: filepath.Join(t.TempDir(), "rehearsal"), Exec: self,
		Args: []string{"spec.nodeName=$(NODE_NAME)"}, Env: []string{"REHEARSED=agent"}, ServiceAccount: "telemetry/agent", ClusterRole: "view",
	}
	r, err := New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	schema := observe.Schema{ServiceAccount: options.ServiceAccount, Shares: observe.DefaultShares, For: time.Hour}
	if err := schema.Install(t.Context(), client, false); err != nil {
		t.Fatal(err)
	}
	meter := &observe.Flow{Servers: []observe.Server{{Name: "lab", URL: l.APIServerURL(0) + "/metrics", Client: metrics}}, Schema: schema.Name(), Level: schema.Name()}
	testkit.Within(t, "the API server has the level", 10*time.Second, func() bool { _, err := meter.Mark(t.Context()); return err == nil })
	var samples []forecast.Sample
	for _, n := range []int{0, 1, 3} {
		if err := r.Grow(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		skip := n > 0 // the programs start in the first
		err := observe.Samples(t.Context(), meter, r, observe.Hold{Window: 2 * time.Second, Windows: 4, Skip: func(why string) { t.Error(why) }}, func(s forecast.Sample) {
			if !skip {
				samples = append(samples, s)
			}
			skip = false
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := forecast.Fit(samples, forecast.Options{Window: 8 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p := m.Predict(forecast.At{Cluster: "production", Nodes: 4, Exposed: 4})
	if i := p.Kinds[forecast.Requests]; i.Unbounded || i.Mean < 14 || i.Mean > 18 {
		t.Errorf("four agents that ask four times a second are predicted to ask %+v", i)
	}

	// Each was who its pod would be on its node.
	log, err := observe.NewAuditLog(observe.AuditOptions{User: "system:serviceaccount:telemetry:agent", Cluster: "lab", Nodes: 4})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(l.AuditLog(0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := log.Read("audit.log", f); err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, q := range log.Requests {
		if !slices.Contains(from, q.From) {
			from = append(from, q.From)
		}
		if q.Code != http.StatusOK {
			t.Errorf("%+v", q)
		}
	}
	slices.Sort(from)
	if diff := cmp.Diff([]string{lab.NodeName(0), lab.NodeName(1), lab.NodeName(2)}, from); diff != "" {
		t.Errorf("nodes that asked (-want +got)\n%s", diff)
	}

	pids := r.programs.pids()
	if err := r.End(context.Background()); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d runs on", pid)
		}
	}
	pods, err := client.CoreV1().Pods("telemetry").List(t.Context(), metav1.ListOptions{})
	if err != nil || slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil }) || len(pids) != 3 {
		t.Errorf("%d pods stay, %d programs ran (%v)", len(pods.Items), len(pids), err)
	}

	t.Run("a program that ends says nothing of so many nodes", func(t *testing.T) {
		bad := options
		bad.Dir, bad.Env, bad.ServiceAccount = filepath.Join(t.TempDir(), "bad"), []string{"REHEARSED=broken"}, "telemetry/broken"
		r, err := New(t.Context(), bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Grow(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		testkit.Within(t, "it is told", 10*time.Second, func() bool { _, err = r.Exposure(t.Context()); return err != nil })
		if !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), lab.NodeName(0)+".log") {
			t.Errorf("got %v", err)
		}
		if said, err := os.ReadFile(filepath.Join(bad.Dir, lab.NodeName(0)+".log")); err != nil || !strings.Contains(string(said), "configuration is missing") {
			t.Errorf("its log: %q %v", said, err)
		}
		if err := r.Grow(t.Context(), 5); err == nil {
			t.Error("it runs on more nodes than there are")
		}
		if err := r.End(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"no account":        {Dir: dir, Exec: "/bin/true"},
		"an account's name": {Dir: dir, Exec: "/bin/true", ServiceAccount: "agent"},
		"no folder":         {Exec: "/bin/true", ServiceAccount: "a/b"},
		"no program":        {Dir: dir, Exec: filepath.Join(dir, "gone"), ServiceAccount: "a/b"},
		"a folder":          {Dir: dir, Exec: dir, ServiceAccount: "a/b"},
		"not to be run":     {Dir: dir, Exec: file, ServiceAccount: "a/b"},
	} {
		if _, err := New(t.Context(), o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestSteps(t *testing.T) {
	for last, want := range map[int][]int{1: {1}, 3: {1, 3}, 9: {1, 3, 9}, 10: {1, 3, 9, 10}, 300: {1, 3, 9, 27, 81, 243, 300}} {
		if diff := cmp.Diff(want, Steps(last)); diff != "" {
			t.Errorf("%d (-want +got)\n%s", last, diff)
		}
	}
}

// pids are the processes that run.
func (p *programs) pids() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pids []int
	for _, cmd := range p.alive {
		pids = append(pids, cmd.Process.Pid)
	}
	return pids
}
