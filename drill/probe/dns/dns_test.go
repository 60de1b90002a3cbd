package dns

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

// server answers every question with a code, or not at all if that is negative, and counts them.
func server(t *testing.T, code int) (addr string, asked *atomic.Int64) {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = &atomic.Int64{}
	started, ended := make(chan struct{}), make(chan struct{})
	s := &mdns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) }, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		asked.Add(1)
		if code < 0 {
			return
		}
		m := new(mdns.Msg).SetRcode(q, code)
		if code == mdns.RcodeSuccess {
			m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: net.IPv4(10, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { defer close(ended); _ = s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	return packets.LocalAddr().String(), asked
}

type target struct {
	drill.Target
	dns drill.DNS
}

func (t target) DNS() drill.DNS { return t.dns }

type sink []drill.Outcome

func (s *sink) Record(_ string, _ time.Time, _ time.Duration, outcome drill.Outcome) {
	*s = append(*s, outcome)
}

// The probe asks as a resolver does: twice where it is told of a failure, and not while it is told nothing.
func TestAsksAsAResolverDoes(t *testing.T) {
	good, _ := server(t, mdns.RcodeSuccess)
	failing, failures := server(t, mdns.RcodeServerFailure)
	silent, silence := server(t, -1)
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	p := &probe{
		spec:  v1alpha1.RequestProbe{Timeout: metav1.Duration{Duration: 200 * time.Millisecond}, Within: metav1.Duration{Duration: 200 * time.Millisecond}},
		drill: &v1alpha1.Drill{Fixtures: v1alpha1.DrillFixtures{Namespace: "drill"}}, target: target{dns: drill.DNS{Domain: "cluster.local"}},
	}
	for name, tc := range map[string]struct {
		servers []string
		want    drill.Outcome
	}{
		"one replica fails":      {balanced([]string{failing, good}, 0), drill.OK},
		"one replica is gone":    {balanced([]string{gone.LocalAddr().String(), good}, 2), drill.OK},
		"both fail":              {balanced([]string{failing, failing}, 1), drill.Unavailable},
		"the node's cache fails": {onNode([]string{failing, good}, 0), drill.Unavailable},
		"a replica is silent":    {balanced([]string{silent, good}, 0), drill.Timeout},
	} {
		var recorded sink
		p.once(t.Context(), &recorded, Unique, tc.servers, 0, time.Now())
		if !slices.Equal(recorded, sink{tc.want}) {
			t.Errorf("%s: recorded are %v, want one %v", name, recorded, tc.want)
		}
	}
	if failures.Load() != 1+2+2 || silence.Load() != 1 {
		t.Errorf("the failing server was asked %d times, the silent one %d times; want 5 and 1", failures.Load(), silence.Load())
	}
}
