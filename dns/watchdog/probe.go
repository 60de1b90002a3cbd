package watchdog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/dns/watchdog/decision"
)

// question is one question, and what a good answer to it is.
type question struct {
	name  string
	qtype uint16
	want  []netip.Addr
}

// questionsOf are the version of the DNS specification, which every cluster's zone has, and what is configured.
func questionsOf(c *v1alpha1.DNSWatchdog) []question {
	questions := []question{{name: dns.Fqdn("dns-version." + c.Zone), qtype: dns.TypeTXT}}
	for _, n := range c.Names {
		q := question{name: dns.Fqdn(n.Name), qtype: dns.StringToType[n.Type]}
		for _, w := range n.Want {
			q.want = append(q.want, netip.MustParseAddr(w))
		}
		questions = append(questions, q)
	}
	return questions
}

// verdict is what a round of questions to one server found.
type verdict struct {
	decision.Answer
	why string // of an Answer that is not good
}

// prober puts the same questions to any server.
type prober struct {
	zone      string
	questions []question
	timeout   time.Duration
}

// probe puts every question over UDP and over TCP, all at once, and waits for them no longer than the timeout. With
// marked, the packets are those that the switch lets through to the primary.
func (p *prober) probe(ctx context.Context, addr string, marked, dated bool) verdict {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	type result struct {
		err       error
		confirmed time.Time
	}
	results := make(chan result)
	n := 0
	for _, network := range []string{"udp", "tcp"} {
		for _, q := range p.questions {
			n++
			go func() {
				m, err := p.ask(ctx, network, addr, q.name, q.qtype, marked)
				if err == nil {
					err = q.judge(m)
				}
				if err != nil {
					err = fmt.Errorf("%s %s over %s: %w", q.name, dns.TypeToString[q.qtype], network, err)
				}
				results <- result{err: err}
			}()
		}
	}
	if dated {
		n++
		go func() {
			m, err := p.ask(ctx, "udp", addr, dns.Fqdn("_seakeep."+p.zone), dns.TypeTXT, marked)
			if err == nil {
				results <- result{confirmed: confirmedIn(m)}
				return
			}
			results <- result{} // that it does not say is not that it is bad
		}()
	}
	v := verdict{Answer: decision.Answer{Good: true, Silent: true}}
	for range n {
		r := <-results
		switch {
		case !r.confirmed.IsZero():
			v.Confirmed = r.confirmed
		case r.err != nil:
			v.Good = false
			if !silence(r.err) {
				v.Silent = false
			}
			if v.why == "" || !silence(r.err) {
				v.why = r.err.Error()
			}
		}
	}
	v.Silent = v.Silent && !v.Good
	return v
}

func (p *prober) ask(ctx context.Context, network, addr, name string, qtype uint16, marked bool) (*dns.Msg, error) {
	dialer := &net.Dialer{}
	if marked {
		dialer.Control = markSocket
	}
	// Every question has a socket of its own, so that an answer to an earlier one is never taken for it.
	c := &dns.Client{Net: network, Dialer: dialer, Timeout: p.timeout}
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1232, false)
	answer, _, err := c.ExchangeContext(ctx, m, addr)
	return answer, err
}

// judge says what is wrong with an answer.
func (q *question) judge(m *dns.Msg) error {
	if m.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("the answer is %s", dns.RcodeToString[m.Rcode])
	}
	if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.name) || m.Question[0].Qtype != q.qtype {
		return errors.New("the answer is to another question")
	}
	var found []netip.Addr
	records := 0
	for _, rr := range m.Answer {
		if rr.Header().Rrtype != q.qtype {
			continue // an alias on the way
		}
		records++
		switch rr := rr.(type) {
		case *dns.A:
			ip, _ := netip.AddrFromSlice(rr.A.To4())
			found = append(found, ip)
		case *dns.AAAA:
			ip, _ := netip.AddrFromSlice(rr.AAAA)
			found = append(found, ip)
		}
	}
	if records == 0 && !m.Truncated {
		return errors.New("the answer is empty")
	}
	for _, want := range q.want {
		if !slices.Contains(found, want) {
			return fmt.Errorf("the answer lacks %s", want)
		}
	}
	return nil
}

// silence is true for what happens when nobody answers. Anything else is an answer, if a bad one.
func silence(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var e net.Error
	if errors.As(err, &e) && e.Timeout() {
		return true
	}
	for _, silent := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM} {
		if errors.Is(err, silent) {
			return true
		}
	}
	return false
}

// confirmedIn reads from the TXT record of an exported zone when its data was last known to be current; zero if it does
// not say.
func confirmedIn(m *dns.Msg) time.Time {
	for _, rr := range m.Answer {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		for _, s := range txt.Txt {
			if stamp, ok := strings.CutPrefix(s, "confirmed="); ok {
				if at, err := time.Parse(time.RFC3339, stamp); err == nil {
					return at
				}
			}
		}
	}
	return time.Time{}
}
