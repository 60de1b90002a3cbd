package analysis

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/miekg/dns"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// maxDNSServers bounds how many servers of a cluster are asked at one look, where they are found and not named: the first by address. A
// finding says how many there are.
const maxDNSServers = 16

// askDNS asks each DNS server by itself: behind the Service's address one answers for those that do not.
func (c *cluster) askDNS(ctx context.Context, d v1alpha1.RolloutDNS, now func() time.Time) part {
	servers, known, err := c.dnsServers(ctx, d)
	if err != nil {
		return part{troubles: []string{err.Error()}}
	}
	p := part{asked: map[string]verdict.Asked{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, server := range servers {
		all.Go(func() {
			asked := verdict.Asked{Check: checkDNS, Whom: "DNS server " + server}
			if known > len(servers) {
				asked.Known = known
			}
			for i := range d.Questions {
				took, err := askOne(ctx, server, d.Names[i%len(d.Names)], d.Timeout.Duration)
				asked.Asked++
				if err != nil {
					asked.Wrong = err.Error()
					continue
				}
				asked.Answered++
				asked.Took = append(asked.Took, took)
			}
			asked.At = now()
			mu.Lock()
			defer mu.Unlock()
			p.asked[checkDNS+"/"+server] = asked
		})
	}
	all.Wait()
	return p
}

// dnsServers are those told, else the endpoints of kube-system/kube-dns that listen, the first of them, and how many there are.
func (c *cluster) dnsServers(ctx context.Context, d v1alpha1.RolloutDNS) (servers []string, known int, err error) {
	if len(c.DNS) > 0 {
		return c.DNS, len(c.DNS), nil
	}
	if len(d.Servers) > 0 {
		return d.Servers, len(d.Servers), nil
	}
	found, err := c.client.DiscoveryV1().EndpointSlices("kube-system").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns", ResourceVersion: "0"})
	if err != nil {
		return nil, 0, fmt.Errorf("finding the DNS servers of %s: %w", c.Name, err)
	}
	for _, slice := range found.Items {
		for _, port := range slice.Ports {
			if port.Port == nil || port.Protocol == nil || *port.Protocol != "UDP" {
				continue
			}
			for _, e := range slice.Endpoints {
				// One that is not ready yet is asked when it serves; kubelet and this probe may disagree, and then users suffer.
				if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					servers = append(servers, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(servers)
	servers = slices.Compact(servers)
	if len(servers) == 0 {
		return nil, 0, fmt.Errorf("no DNS server of %s is known: the Service kube-system/kube-dns has no ready endpoint; name them in analysis.dns.servers, or disable analysis.dns", c.Name)
	}
	return servers[:min(len(servers), maxDNSServers)], len(servers), nil
}

// askOne sends one question and checks the answer. A name with a star becomes one that was never asked for before: its answer
// is in no cache, and must be that there is no such name.
func askOne(ctx context.Context, server, pattern string, timeout time.Duration) (time.Duration, error) {
	name := strings.ReplaceAll(pattern, "*", "u"+strings.ReplaceAll(uuid.NewString(), "-", ""))
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), dns.TypeA)
	client := &dns.Client{Timeout: timeout}
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	started := time.Now()
	answer, _, err := client.ExchangeContext(within, question, server)
	if err == nil && answer.Truncated {
		client.Net = "tcp"
		answer, _, err = client.ExchangeContext(within, question, server)
	}
	took := time.Since(started)
	if err != nil {
		return took, fmt.Errorf("%s: %w", name, err)
	}
	want := dns.RcodeSuccess
	if name != pattern {
		want = dns.RcodeNameError
	}
	switch {
	case answer.Rcode != want:
		return took, fmt.Errorf("%s: it answers %s, not %s", name, dns.RcodeToString[answer.Rcode], dns.RcodeToString[want])
	case want == dns.RcodeSuccess && len(answer.Answer) == 0:
		return took, fmt.Errorf("%s: the answer is empty", name)
	}
	return took, nil
}
