package many

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// What a client that asks all the time notices when its gate dies, with something in front (a balancer, kube-proxy) that opens
// new connections at another: a process that is killed costs it a reconnection; a host that falls silent, here a gate that is
// stopped, costs it up to what its HTTP/2 library waits before and for a ping: 45 s in client-go.
func TestWhatADeadGateCosts(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	gates := []*process{newProcess(t, l, "gate-0", ""), newProcess(t, l, "gate-1", "")}
	startAll(t, gates)
	for name, tc := range map[string]struct {
		how  syscall.Signal
		most time.Duration
	}{"a process": {syscall.SIGKILL, 3 * time.Second}, "a silent host": {syscall.SIGSTOP, 60 * time.Second}} {
		var to atomic.Int64
		c := rest.CopyConfig(l.RESTConfig(lab.User(lab.AdminUser)))
		c.Host = "https://" + gates[0].address
		c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, gates[to.Load()].address)
		}
		client := gatetest.Clientset(t, c)
		ask := func() error {
			_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
			return err
		}
		testkit.Within(t, "the client is connected", 10*time.Second, func() bool { return ask() == nil })
		to.Store(1)
		failed := 0
		began := time.Now()
		check(t, gates[0].child.Process.Signal(tc.how))
		if tc.how == syscall.SIGKILL {
			<-gates[0].ended
		}
		for ask() != nil {
			if failed++; time.Since(began) > tc.most {
				break
			}
		}
		took := time.Since(began)
		t.Logf("%s: the client was served again after %s, with %d failed requests", name, took, failed)
		if took > tc.most {
			t.Errorf("%s cost the client %s", name, took)
		}
		if tc.how == syscall.SIGSTOP {
			_ = gates[0].child.Process.Signal(syscall.SIGCONT)
			continue
		}
		gates[0].child = nil
		gates[0].start()
		testkit.Within(t, "the gate is up again", 60*time.Second, gates[0].up)
	}
}
