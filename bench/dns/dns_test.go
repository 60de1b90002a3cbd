package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestParse(t *testing.T) {
	none := func(string) string { return "" }
	for name, tc := range map[string]struct {
		args    []string
		seconds string
		turn    time.Duration
		wantErr bool
	}{
		"as it is":               {turn: 3 * time.Second},
		"quick":                  {seconds: "1", turn: time.Second},
		"a flag wins":            {args: []string{"-turn", "2s"}, seconds: "1", turn: 2 * time.Second},
		"no number":              {seconds: "fast", wantErr: true},
		"too short":              {args: []string{"-turn", "1ms"}, wantErr: true},
		"no round":               {args: []string{"-rounds", "0"}, wantErr: true},
		"a broken expression":    {args: []string{"-only", "("}, wantErr: true},
		"shrunk instead":         {args: []string{"-services", "1000", "-grown", "500"}, wantErr: true},
		"more than addresses":    {args: []string{"-grown", "100000"}, wantErr: true},
		"nobody to restart":      {args: []string{"-instances", "1"}, wantErr: true},
		"a flag that is not one": {args: []string{"-loud"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			getenv := none
			if tc.seconds != "" {
				getenv = func(string) string { return tc.seconds }
			}
			o, err := parse(tc.args, getenv, io.Discard)
			if (err != nil) != tc.wantErr || err == nil && o.Turn != tc.turn {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestParseAsked(t *testing.T) {
	const said = `Statistics:

  Queries sent:         60000
  Queries completed:    59990 (99.98%)
  Queries lost:         10 (0.02%)

  Response codes:       NOERROR 59980 (99.98%), NXDOMAIN 10 (0.02%)
  Average packet size:  request 50, response 100
  Run time (s):         3.000133
  Queries per second:   19995.780267
`
	got, err := parseAsked([]byte(said))
	want := asked{sent: 60000, completed: 59990, good: 59980, perSecond: 19995.780267}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := parseAsked([]byte("Error: dnsperf: no such host")); err == nil {
		t.Error("what dnsperf did not say was read")
	}
}

func TestParseLists(t *testing.T) {
	const text = `# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="services",verb="LIST"} 3
apiserver_request_total{code="200",resource="services",verb="WATCH"} 5
apiserver_request_total{code="410",resource="endpointslices",verb="LIST"} 2
apiserver_request_total{code="200",resource="configmaps",verb="LIST"} 7
`
	if got, err := parseLists(text); err != nil || got != 5 {
		t.Errorf("got %v, %v; want 5", got, err)
	}
}

func TestParseAuditedLists(t *testing.T) {
	event := func(verb, uri, user, resource string) string {
		return fmt.Sprintf(`{"kind":"Event","verb":%q,"requestURI":%q,"user":{"username":%q},"objectRef":{"resource":%q}}`+"\n", verb, uri, user, resource)
	}
	log := event("list", "/api/v1/services?limit=500", dnsUserName, "services") +
		event("list", "/api/v1/services?limit=500&continue=abc", dnsUserName, "services") +
		event("watch", "/api/v1/services?watch=1", dnsUserName, "services") +
		event("list", "/api/v1/services", "system:apiserver", "services") +
		event("list", "/api/v1/nodes", dnsUserName, "nodes") +
		event("list", "/api/v1/namespaces", dnsUserName, "namespaces") + `{"verb":"list","reque`
	lists, pages, err := parseAuditedLists(strings.NewReader(log))
	if diff := cmp.Diff(map[string]int{"services": 1, "namespaces": 1}, lists); diff != "" || pages != 3 || err != nil {
		t.Errorf("%d pages, %v (-want +got)\n%s", pages, err, diff)
	}
	if _, _, err := parseAuditedLists(strings.NewReader("{\n")); err == nil {
		t.Error("a broken line was read")
	}
}

func TestParsePeak(t *testing.T) {
	for text, want := range map[string]int64{"VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n": 2 << 20, "VmRSS: 1 kB\n": 0, "VmHWM: 1 MB\n": 0} {
		got, err := parsePeak([]byte(text))
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
}

// answerer is a DNS server that leaves every nth query unanswered.
func answerer(t *testing.T, drop int) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 2048)
		for n := 1; ; n++ {
			size, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			var m dns.Msg
			if m.Unpack(buffer[:size]) != nil || drop > 0 && n%drop == 0 {
				continue
			}
			m.Response = true
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(10, 0, 0, 1)}}
			if packed, err := m.Pack(); err == nil {
				_, _ = conn.WriteToUDPAddrPort(packed, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestCrowdAsksAgain(t *testing.T) {
	crowd, err := newCrowd(answerer(t, 4), 100)
	if err != nil {
		t.Fatal(err)
	}
	defer crowd.close()
	o := crowd.play(t.Context(), 2000, 200*time.Millisecond)
	if o.asked != 400 || o.first >= o.asked || o.first == 0 || o.answered <= o.first {
		t.Errorf("every fourth query was dropped: asked %d, answered %d at first and %d in the end", o.asked, o.first, o.answered)
	}
	if got := o.latency.Milliseconds(0.999); got < float64(retryAfter.Milliseconds()) {
		t.Errorf("what was asked twice counts with all its time, got %.0f ms at most", got)
	}
}

func TestFloodSendsWholeQueries(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	from, err := dial(netip.AddrFrom4([4]byte{127, 0, 2, 1}), conn.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := flood(ctx, from, 20000, 100)
		done <- err
	}()
	buffer := make([]byte, 65536)
	for i := range 3 * segments {
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(buffer[:n]); err != nil || m.Question[0].Name != fullName(i%segments) || binary.BigEndian.Uint16(buffer) != uint16(i%segments) {
			t.Fatalf("datagram %d of %d bytes is %v, %v", i, n, m, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is written past the API server must be what it reads.
func TestStoredObjects(t *testing.T) {
	got := stored(1234, clusterIP(70000))
	if len(got) != 3 || clusterIP(70000) != "10.101.17.112" {
		t.Fatalf("got %d objects, cluster IP %s", len(got), clusterIP(70000))
	}
	for key, o := range got {
		data, err := encode(o)
		if err != nil || !bytes.HasPrefix(data, []byte("k8s\x00")) {
			t.Fatalf("%s: %q, %v", key, data, err)
		}
		back, kind, err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Decode(data, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if strings.HasPrefix(key, "/registry/ipaddresses/") != (kind.Kind == "IPAddress") {
			t.Errorf("%s is a %s", key, kind.Kind)
		}
		if s, ok := back.(*corev1.Service); ok && (s.Spec.ClusterIP != "10.101.17.112" || s.Name != "svc-01234") {
			t.Errorf("read back as %v", s)
		}
	}
}
