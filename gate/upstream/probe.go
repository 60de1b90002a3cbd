package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// ProbeUser is who the gate is when it asks API servers how they are. Any authenticated user may get /readyz
// (the ClusterRole system:public-info-viewer), and API Priority and Fairness lets it pass at any load (the FlowSchema
// probes); of /readyz/etcd-readiness alone neither is true, and /readyz has the same check in it. Where that role was
// taken away, the user needs get on the nonResourceURL /readyz.
const ProbeUser = "seakeep:gate"

const (
	probeEvery = 250 * time.Millisecond
	// An API server that has lost its etcd asks it for half its --etcd-readycheck-timeout (2 s) no second time: it may
	// answer from memory for one second, and keeps the next question waiting. So that it is out within two seconds, the
	// answer has 600 ms. Silence alone takes nobody out who answers requests meanwhile.
	quorumTimeout  = 600 * time.Millisecond
	servingTimeout = time.Second
	maxChecks      = 16 << 10
)

// questions by ability. The first leaves out what the second is about: what fails it is out of service altogether.
var questions = [...]struct {
	query   string
	timeout time.Duration
}{
	choice.Serving: {"exclude=etcd&exclude=etcd-readiness", servingTimeout},
	choice.Quorum:  {"", quorumTimeout},
}

// prober asks one server about one ability.
type prober struct {
	server  *Server
	ability choice.Ability
	headers func() *identity.Headers
	found   func(began, now time.Time, s *choice.Server, a choice.Ability, f choice.Finding, why error)
}

// run asks until the context ends.
func (p *prober) run(ctx context.Context) {
	timer := time.NewTimer(rand.N(probeEvery))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		finding, why := p.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		p.found(began, time.Now(), p.server.state, p.ability, finding, why)
		timer.Reset(probeEvery*9/10 + rand.N(probeEvery/5))
	}
}

func (p *prober) ask(ctx context.Context) (choice.Finding, error) {
	q := questions[p.ability]
	ctx, cancel := context.WithTimeoutCause(ctx, q.timeout, fmt.Errorf("no answer to /readyz within %s", q.timeout))
	defer cancel()
	target := *p.server.url
	target.Path, target.RawQuery = "/readyz", q.query
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return choice.Absent, err
	}
	p.headers().Set(r, &flow.Caller{User: ProbeUser, Certainty: flow.CertificateVerified})
	r.Header.Set("User-Agent", "seakeep-gate")
	markAudit(r.Header)
	response, err := shared(p.server.probes, r)
	if err == nil {
		defer response.Body.Close()
		var checks []byte
		if checks, err = io.ReadAll(io.LimitReader(response.Body, maxChecks)); err == nil {
			return findingOf(p.ability, response.StatusCode, string(checks)), nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return choice.Mute, context.Cause(ctx)
	case errors.Is(err, errShared):
		return choice.Mute, err
	}
	return choice.Absent, err
}

// findingOf reads an answer to /readyz: the list of checks when one has failed.
func findingOf(a choice.Ability, code int, checks string) choice.Finding {
	switch {
	case code == http.StatusOK:
		return choice.Well
	case code < 500:
		return choice.Unsaid // it may not, or it is busy; it answers
	case a == choice.Serving, etcdIll(checks):
		return choice.Ill
	}
	return choice.Unsaid // not ready for another reason, which the other question finds
}
