// Package dns is the probe that asks for names. Three series tell three things apart: what a cache still hides (cached),
// what a live query gets (unique: a name that this cache has not been asked for), and what the cluster DNS itself says
// after it was restarted (afterRestart). Only a probe that goes past the caches sees an outage that they mask.
package dns

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/fixtures"
)

// The series.
const (
	Cached       = "cached"
	Unique       = "unique"
	AfterRestart = "afterRestart"
)

// cachedNames is how many names are asked for over and over; all others are for the unique series.
const cachedNames = 20

type probe struct {
	spec      v1alpha1.RequestProbe
	target    drill.Target
	drill     *v1alpha1.Drill
	restarted <-chan struct{} // for the first time; nil: never
}

// New returns the probe. It learns from the timeline which step is the first to restart the cluster DNS.
func New(spec v1alpha1.RequestProbe, env drill.Env) (drill.Probe, error) {
	if len(env.Target.DNS().Cluster) == 0 {
		return nil, errors.New("the target has no cluster DNS")
	}
	p := &probe{spec: spec, target: env.Target, drill: env.Drill}
	for _, s := range env.Drill.Timeline {
		c := s.Action.Component
		if p.restarted == nil && c != nil && (c.Name == "dns" || strings.HasPrefix(c.Name, "dns-")) && c.Op != v1alpha1.ComponentStop {
			p.restarted = env.StepDone(s.Name)
		}
	}
	return p, nil
}

// Run implements drill.Probe.
func (p *probe) Run(ctx context.Context, sink drill.Sink) error {
	var series sync.WaitGroup
	series.Go(func() {
		drill.OpenLoop(ctx, p.spec.Interval.Duration, func(ctx context.Context, n int, due time.Time) {
			p.once(ctx, sink, Cached, onNode(p.target.DNS().Caches, n), n%cachedNames, due)
		})
	})
	series.Go(func() {
		names := p.drill.Fixtures.Services - cachedNames
		drill.OpenLoop(ctx, p.spec.Interval.Duration, func(ctx context.Context, n int, due time.Time) {
			caches := p.target.DNS().Caches
			if names <= 0 || n >= names*len(caches) {
				return // every name was asked of every cache: there is no data any more, and none is made up
			}
			p.once(ctx, sink, Unique, onNode(caches, n/names), cachedNames+n%names, due)
		})
	})
	series.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-p.restarted:
		}
		drill.OpenLoop(ctx, p.spec.Interval.Duration, func(ctx context.Context, n int, due time.Time) {
			p.once(ctx, sink, AfterRestart, balanced(p.target.DNS().Cluster, n), n%p.drill.Fixtures.Services, due)
		})
	})
	series.Wait()
	return nil
}

// attempts is how often a resolver asks before it gives up: what glibc and Go do when resolv.conf does not say. They ask
// again at once after a failure. A server that is silent is not asked again here: they wait for 5 s, which is longer than
// a person does.
const attempts = 2

// onNode is whom the attempts of a resolver on node n reach: the node's cache and no other.
func onNode(caches []string, n int) []string {
	if len(caches) == 0 {
		return nil
	}
	return slices.Repeat([]string{caches[n%len(caches)]}, attempts)
}

// balanced is whom the attempts of a resolver reach that asks the service's address: any replica, each time another.
func balanced(replicas []string, n int) []string {
	var servers []string
	for i := range attempts {
		servers = append(servers, replicas[(n+i)%len(replicas)])
	}
	return servers
}

// once asks for one Service's address as a stub resolver would: the first server, and the next one after a failure.
func (p *probe) once(ctx context.Context, sink drill.Sink, series string, servers []string, name int, due time.Time) {
	if len(servers) == 0 {
		return
	}
	attempt, cancel := context.WithDeadline(ctx, due.Add(p.spec.Timeout.Duration))
	defer cancel()
	question := new(mdns.Msg)
	question.SetQuestion(fixtures.ServiceName(name)+"."+p.drill.Fixtures.Namespace+".svc."+p.target.DNS().Domain+".", mdns.TypeA)
	client := &mdns.Client{Net: "udp", Timeout: p.spec.Timeout.Duration}
	var answer *mdns.Msg
	var err error
	for _, server := range servers {
		answer, _, err = client.ExchangeContext(attempt, question, server)
		if ctx.Err() != nil {
			return
		}
		if attempt.Err() != nil || err == nil && !refused(answer) {
			break
		}
	}
	latency := time.Since(due)
	sink.Record(series, due, latency, outcome(answer, err, latency, p.spec.Within.Duration))
}

// outcome judges an answer; a NOERROR without an address is as useless to a client as none.
func outcome(answer *mdns.Msg, err error, latency, within time.Duration) drill.Outcome {
	if err != nil {
		return drill.OutcomeOf(0, err, latency, within)
	}
	switch {
	case refused(answer):
		return drill.Unavailable
	case answer.Rcode != mdns.RcodeSuccess || len(answer.Answer) == 0:
		return drill.Wrong
	case latency > within:
		return drill.Slow
	default:
		return drill.OK
	}
}

// refused says whether a resolver would ask again.
func refused(answer *mdns.Msg) bool {
	return answer.Rcode == mdns.RcodeServerFailure || answer.Rcode == mdns.RcodeRefused
}
