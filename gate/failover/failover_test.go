package failover_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// The writers' rate: a third of it would hang each second, if it were sent to who cannot answer.
const (
	writes = 50
	window = 10 * time.Second
	// cutAfter is how long a storm runs before the fault.
	cutAfter = time.Second
)

func TestOneOfThreeFails(t *testing.T) {
	w := newWorld(t)
	file := w.configure(t, "", w.upstreams()...)
	n := gatetest.Serve(t, w.Lab, file)
	defer w.leave(t, n)
	client := n.HTTP(true, n.Certificate(lab.Admin))
	writer := func() *storm { return &storm{t: t, client: client, url: n.URL} }
	fromMemory := func() *storm {
		return &storm{t: t, client: client, url: n.URL, request: func(ctx context.Context, _ int) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/api/v1/namespaces/default/services?resourceVersion=0", nil)
		}}
	}
	makeNamespace(t, client, n.URL)
	follower := w.follower(t)

	for _, test := range []struct {
		name        string
		break_, fix func()
		// most is how many of a hundred writes of the ten seconds may fail, and until how long after the fault.
		most  float64
		until time.Duration
	}{
		{
			name:   "its etcd swallows everything",
			break_: func() { w.etcd[2].Silence() }, fix: func() { w.etcd[2].Restore() },
			most: 7, until: 2 * time.Second,
		},
		{
			name:   "its etcd refuses connections",
			break_: func() { w.etcd[2].Refuse() }, fix: func() { w.etcd[2].Restore() },
			most: 7, until: 2 * time.Second,
		},
		{
			name:   "its etcd is stopped",
			break_: func() { w.signal(t, lab.KindEtcd, follower, syscall.SIGSTOP) }, fix: func() { w.signal(t, lab.KindEtcd, follower, syscall.SIGCONT) },
			most: 7, until: 2 * time.Second,
		},
		{
			name:   "it accepts and never answers",
			break_: func() { w.signal(t, lab.KindAPIServer, 1, syscall.SIGSTOP) }, fix: func() { w.signal(t, lab.KindAPIServer, 1, syscall.SIGCONT) },
			most: 7, until: 2 * time.Second,
		},
		{
			name:   "the way to it swallows everything",
			break_: func() { w.api[1].Silence() }, fix: func() { w.api[1].Restore() },
			most: 7, until: 2 * time.Second,
		},
		{
			name:   "it resets",
			break_: func() { w.api[1].Refuse() }, fix: func() { w.api[1].Restore() },
			most: 1, until: 500 * time.Millisecond,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			allIn(t, n, writer())
			broken := time.AfterFunc(cutAfter, test.break_)
			defer broken.Stop()
			reads := make(chan verdict)
			reader := fromMemory()
			go func() { reads <- judge(t, reader.run(writes/2, window+cutAfter)) }()
			all := writer().run(writes, window+cutAfter)
			v := judge(t, all)
			if share := 100 * float64(v.failed) / (writes * window.Seconds()); share > test.most {
				t.Errorf("%.1f %% of the writes failed, want ≤ %g %%", share, test.most)
			}
			if v.failed > 0 && v.last > cutAfter+test.until {
				t.Errorf("a write sent %s after the fault failed, want none after %s", v.last-cutAfter, test.until)
			}
			if r := <-reads; r.failed > int(test.most/100*float64(r.offered)) {
				t.Errorf("%d of %d reads from memory failed", r.failed, r.offered)
			}
			test.fix()
			w.once(t, all)
		})
	}
	allIn(t, n, writer())
	t.Run("two lose their etcd: what asks for no more is answered by all", func(t *testing.T) {
		for _, i := range []int{1, 2} {
			w.etcd[i].Silence()
			defer w.etcd[i].Restore()
		}
		within(t, 10*time.Second, "both are out", func() bool { return metric(t, n, "seakeep_gate_upstream_in_ratio", "quorum") == 1 })
		w.signal(t, lab.KindAPIServer, 0, syscall.SIGSTOP)
		defer w.signal(t, lab.KindAPIServer, 0, syscall.SIGCONT)
		within(t, 10*time.Second, "the third does not answer", func() bool { return metric(t, n, "seakeep_gate_upstream_in_ratio") == 2 })
		if v := judge(t, fromMemory().run(writes, 2*time.Second)); v.failed > 0 {
			t.Errorf("%d of %d reads from memory failed", v.failed, v.offered)
		}
	})
	allIn(t, n, writer())
}

// follower is the index of an etcd member that does not lead.
func (w *world) follower(t *testing.T) int {
	t.Helper()
	for i := range 3 {
		if i != 0 && !w.leads(t, i) {
			return i
		}
	}
	t.Fatal("etcd has no follower")
	return 0
}

// leads asks an API server's own member through its readiness: the lab has no etcd client, and etcd tells in its metrics.
func (w *world) leads(t *testing.T, i int) bool {
	t.Helper()
	p, ok := w.Process(instance(lab.KindEtcd, i))
	if !ok {
		t.Fatalf("no etcd member %d", i)
	}
	return strings.Contains(etcdMetrics(t, p.PID()), "etcd_server_is_leader 1")
}

func (w *world) signal(t *testing.T, kind string, i int, signal syscall.Signal) {
	p, ok := w.Process(instance(kind, i))
	if !ok {
		t.Errorf("no process %s %d", kind, i)
		return
	}
	if err := p.Signal(signal); err != nil {
		t.Error(err)
	}
}

func instance(kind string, i int) string {
	if i == 0 {
		return kind
	}
	return fmt.Sprintf("%s-%d", kind, i)
}
