package packed

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func random() *rand.PCG { return rand.NewPCG(1, 2) }

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// reply answers a query with n addresses.
func reply(q *dns.Msg, n int) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	for i := range n {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(10, 0, 0, byte(i+1)).To4(),
		})
	}
	return m
}

func answerOf(t *testing.T, table *Table[string], q []byte) (*dns.Msg, string, bool) {
	t.Helper()
	out, note, ok := table.Append(nil, q, random())
	if !ok {
		return nil, "", false
	}
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil {
		t.Fatal(err)
	}
	return m, note, true
}

func TestAnswersUntilWhatItDependsOnChanges(t *testing.T) {
	table := New[string](1<<20, true)
	q := query("web.team.svc.cluster.local.", dns.TypeA)
	basis := table.Begin()
	table.On(&basis, "team")
	table.On(&basis, "team/web")
	if !table.Store(pack(t, q), pack(t, reply(q, 1)), basis, "first") {
		t.Fatal("the answer was not kept")
	}
	q.Id = 4711
	m, note, ok := answerOf(t, table, pack(t, q))
	if !ok || m.Id != 4711 || note != "first" || len(m.Answer) != 1 {
		t.Fatalf("answer is %v, note %q, kept %t", m, note, ok)
	}
	table.Changed("team/db")
	if _, _, ok := answerOf(t, table, pack(t, q)); !ok {
		t.Error("another service's change took the answer away")
	}
	for name, change := range map[string]func(){
		"service": func() { table.Changed("team/web") }, "namespace": func() { table.Changed("team") }, "everything": table.ChangedAll,
	} {
		basis := table.Begin()
		table.On(&basis, "team")
		table.On(&basis, "team/web")
		table.Store(pack(t, q), pack(t, reply(q, 1)), basis, "again")
		change()
		if _, _, ok := answerOf(t, table, pack(t, q)); ok {
			t.Errorf("an answer was given after its %s had changed", name)
		}
		if table.Store(pack(t, q), pack(t, reply(q, 1)), basis, "late") {
			t.Errorf("an answer made from data of before the %s's change was kept", name)
		}
	}
}

func TestKeepsOnlyWhatDependsOnItsBytes(t *testing.T) {
	plainQuery := func() *dns.Msg { return query("web.team.svc.cluster.local.", dns.TypeA) }
	tests := map[string]struct {
		query func() []byte
		want  bool
	}{
		"plain": {func() []byte { return pack(t, plainQuery()) }, true},
		"EDNS":  {func() []byte { return pack(t, plainQuery().SetEdns0(1232, true)) }, true},
		"a cookie": {func() []byte {
			m := plainQuery().SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"}}
			return pack(t, m)
		}, false},
		"a later EDNS": {func() []byte {
			m := plainQuery().SetEdns0(1232, false)
			m.IsEdns0().SetVersion(1)
			return pack(t, m)
		}, false},
		"another class": {func() []byte {
			m := plainQuery()
			m.Question[0].Qclass = dns.ClassCHAOS
			return pack(t, m)
		}, false},
		"a response":     {func() []byte { return pack(t, new(dns.Msg).SetReply(plainQuery())) }, false},
		"a notification": {func() []byte { return pack(t, new(dns.Msg).SetNotify("cluster.local.")) }, false},
		"two questions": {func() []byte {
			m := plainQuery()
			m.Question = append(m.Question, m.Question[0])
			return pack(t, m)
		}, false},
		"trailing bytes": {func() []byte { return append(pack(t, plainQuery()), 0) }, false},
		"cut off":        {func() []byte { return pack(t, plainQuery())[:20] }, false},
		"a signature": {func() []byte {
			m := plainQuery()
			m.Extra = append(m.Extra, &dns.TXT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{"x"}})
			return pack(t, m)
		}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Cacheable(tc.query()); got != tc.want {
				t.Errorf("cacheable is %t, want %t", got, tc.want)
			}
			table := New[string](1<<20, false)
			if got := table.Store(tc.query(), pack(t, reply(plainQuery(), 1)), table.Begin(), ""); got != tc.want {
				t.Errorf("kept is %t, want %t", got, tc.want)
			}
		})
	}
}

func TestRotatesLikeLoadbalance(t *testing.T) {
	q := query("db.team.svc.cluster.local.", dns.TypeSRV)
	m := new(dns.Msg).SetReply(q)
	var want []string
	for i := range 5 {
		target := strings.Repeat("x", i+1) + ".db.team.svc.cluster.local."
		m.Answer = append(m.Answer, &dns.SRV{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: 5}, Port: 80, Target: target,
		})
		var rr dns.RR = &dns.A{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}, A: net.IPv4(10, 0, 0, byte(i)).To4()}
		if i > 2 {
			rr = &dns.AAAA{Hdr: dns.RR_Header{Name: target, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 5}, AAAA: net.ParseIP("2001:db8::1")}
		}
		m.Extra = append(m.Extra, rr)
		want = append(want, rr.String())
	}
	m.SetEdns0(1232, false)
	slices.Sort(want)
	answer := pack(t, m)
	table := New[string](1<<20, true)
	if !table.Store(pack(t, q), answer, table.Begin(), "") {
		t.Fatal("the answer was not kept")
	}
	pcg := random()
	first := map[string]int{}
	const rounds = 5000
	for range rounds {
		out, _, _ := table.Append(nil, pack(t, q), pcg)
		got := new(dns.Msg)
		if err := got.Unpack(out); err != nil {
			t.Fatal(err)
		}
		var records []string
		for _, rr := range got.Extra[:5] {
			records = append(records, rr.String())
		}
		first[records[0]]++
		slices.Sort(records)
		if !slices.Equal(records, want) || fmt.Sprint(got.Answer) != fmt.Sprint(m.Answer) || got.IsEdns0() == nil {
			t.Fatalf("an answer changed:\n%v\nwant\n%v", got, m)
		}
	}
	for _, n := range slices.Collect(maps.Values(first)) {
		if n < rounds/5-150 || n > rounds/5+150 {
			t.Errorf("a record came first %d times of %d, want about %d", n, rounds, rounds/5)
		}
	}
}

func TestSerialIsTheCurrentOne(t *testing.T) {
	q := query("nothing.team.svc.cluster.local.", dns.TypeA)
	m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
	m.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: "cluster.local.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 5},
		Ns:  "ns.dns.cluster.local.", Mbox: "hostmaster.cluster.local.", Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minttl: 5,
	}}
	table := New[string](1<<20, true)
	if !table.Store(pack(t, q), pack(t, m), table.Begin(), "") {
		t.Fatal("the answer was not kept")
	}
	table.SetSerial(99)
	got, _, _ := answerOf(t, table, pack(t, q))
	if soa := got.Ns[0].(*dns.SOA); soa.Serial != 99 || soa.Minttl != 5 || soa.Refresh != 2 {
		t.Errorf("SOA is %v, want serial 99 and the rest as it was", soa)
	}
}

func TestIsBounded(t *testing.T) {
	table := New[string](64<<10, false)
	for i := range 5000 {
		q := query(fmt.Sprintf("service-%d.team.svc.cluster.local.", i), dns.TypeA)
		table.Store(pack(t, q), pack(t, reply(q, 1)), table.Begin(), "")
	}
	if n := table.Len(); n < 50 || n > 64<<10/overhead {
		t.Errorf("%d answers are kept in 64 KiB", n)
	}
}

func TestTruncatedOrUnmovableIsNotKept(t *testing.T) {
	q := query("db.team.svc.cluster.local.", dns.TypeA)
	m := reply(q, 3)
	m.Truncated = true
	table := New[string](1<<20, true)
	if table.Store(pack(t, q), pack(t, m), table.Begin(), "") {
		t.Error("a truncated answer was kept")
	}
	// Names compressed against one another cannot change places.
	m = new(dns.Msg).SetReply(q)
	for i := range 3 {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: "other.example.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, 0, byte(i)).To4(),
		})
	}
	m.Compress = true
	if table.Store(pack(t, q), pack(t, m), table.Begin(), "") {
		t.Error("an answer whose records point at one another was kept for rotation")
	}
	if still := New[string](1<<20, false); !still.Store(pack(t, q), pack(t, m), still.Begin(), "") {
		t.Error("without rotation it can be kept")
	}
}

// What the table takes for a plain query is one to the DNS library too, and no bytes make it crash.
func FuzzQuery(f *testing.F) {
	q := query("web.team.svc.cluster.local.", dns.TypeA)
	f.Add(pack(f, q))
	f.Add(pack(f, q.SetEdns0(1232, true)))
	f.Add(pack(f, reply(q, 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		table := New[string](1<<20, true)
		if Cacheable(b) {
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil || len(m.Question) != 1 {
				t.Fatalf("cacheable, but no query: %v", err)
			}
		}
		table.Store(pack(t, q), b, table.Begin(), "")
		table.Append(nil, b, random())
		if table.Store(b, pack(t, reply(query("a.", dns.TypeA), 2)), table.Begin(), "") != Cacheable(b) {
			t.Fatal("what is cacheable is kept, and nothing else")
		}
		table.Append(nil, b, random())
	})
}

// An answer of arbitrary bytes is refused or can be given again, whole.
func FuzzAnswer(f *testing.F) {
	q := query("web.team.svc.cluster.local.", dns.TypeA)
	f.Add(pack(f, reply(q, 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		table := New[string](1<<20, true)
		if !table.Store(pack(t, q), b, table.Begin(), "") {
			return
		}
		out, _, ok := table.Append(nil, pack(t, q), random())
		if !ok || len(out) != len(b) {
			t.Fatalf("%d bytes were kept and %d given", len(b), len(out))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	table := New[string](1<<20, true)
	q := query("db.team.svc.cluster.local.", dns.TypeA)
	basis := table.Begin()
	table.On(&basis, "team")
	table.On(&basis, "team/db")
	packed := pack(b, q)
	table.Store(packed, pack(b, reply(q, 10)), basis, "")
	out, pcg := make([]byte, 0, 4096), random()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := table.Append(out, packed, pcg); !ok {
			b.Fatal("no answer")
		}
	}
}
