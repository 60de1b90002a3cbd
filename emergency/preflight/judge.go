package preflight

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Status is a part's outlook with this control plane.
type Status string

// The outlooks, in the order in which one outweighs the other.
const (
	Works      Status = "works"
	Limited    Status = "limited"
	Uncertain  Status = "unknown"
	Impossible Status = "impossible"
)

var weight = map[Status]int{Works: 0, Limited: 1, Uncertain: 2, Impossible: 3}

// Part is one part of Seakeep.
type Part string

// The parts, as they are named on the command line.
const (
	Version       Part = "version"
	GateProxy     Part = "gate-front-proxy"
	GateActs      Part = "gate-impersonation"
	BreakGlass    Part = "break-glass"
	TokenNames    Part = "tokens"
	LimitsActions Part = "limits"
	LedgerCosts   Part = "ledger"
	BypassCount   Part = "bypass"
	Certificates  Part = "certificates"
	Relay         Part = "relay"
	Overload      Part = "overload"
	DNS           Part = "dns"
	Rollout       Part = "rollout"
	Jail          Part = "jail"
	Monitor       Part = "monitor"
	EtcdCare      Part = "etcd"
)

// Result is what is to be said of one part.
type Result struct {
	Part   Part   `json:"part"`
	Title  string `json:"title"`
	Status Status `json:"status"`
	// Planned is true for a part that this version of Seakeep does not have: the status then says only what the
	// control plane would allow.
	Planned bool `json:"planned,omitempty"`
	// Why has a sentence for each thing that made the status, Change what to do about it.
	Why    []string `json:"why"`
	Change []string `json:"change"`
}

// verdict builds a Result. Its methods each say one thing; the heaviest status stays.
type verdict struct{ Result }

func (v *verdict) say(status Status, because, change string) {
	if weight[status] > weight[v.Status] {
		v.Status = status
	}
	v.Why = append(v.Why, because)
	if change != "" && !slices.Contains(v.Change, change) {
		v.Change = append(v.Change, change)
	}
}

func (v *verdict) note(text string)                  { v.Why = append(v.Why, text) }
func (v *verdict) limited(because, change string)    { v.say(Limited, because, change) }
func (v *verdict) impossible(because, change string) { v.say(Impossible, because, change) }
func (v *verdict) unknown(because, change string)    { v.say(Uncertain, because, change) }

// room is a part with what judges it.
type room struct {
	part    Part
	title   string
	planned bool
	judge   func(*Facts, *verdict)
}

// rooms are all parts in the order they are shown.
var rooms = []room{
	{Version, "Kubernetes version", false, judgeVersion},
	{GateProxy, "Gate, standard lane, identity FrontProxy", false, judgeFrontProxy},
	{GateActs, "Gate, standard lane, identity Impersonation", false, judgeImpersonation},
	{BreakGlass, "Break-glass lane and credentials", false, judgeBreakGlass},
	{TokenNames, "Tokens recognised offline", false, judgeTokens},
	{LimitsActions, "Limits and emergency actions", false, judgeLimits},
	{LedgerCosts, "Ledger: who costs what", false, judgeLedger},
	{BypassCount, "Counting what goes round the gates", false, judgeBypass},
	{Certificates, "Certificates", false, judgeCertificates},
	{Relay, "Shared reads (relay)", true, judgeRelay},
	{Overload, "Overload control by the API servers' metrics", true, judgeOverload},
	{DNS, "Cluster DNS of its own data", true, judgeDNS},
	{Rollout, "Rollout of DaemonSets by OnDelete", true, judgeRollout},
	{Jail, "Jail by API Priority and Fairness", true, judgeJail},
	{Monitor, "Monitor", true, judgeMonitor},
	{EtcdCare, "etcd care", true, judgeEtcd},
}

// Parts are the names of all parts.
func Parts() []Part {
	names := make([]Part, len(rooms))
	for i, r := range rooms {
		names[i] = r.part
	}
	return names
}

// ErrNoPart is returned by Judge for a part it does not know.
var ErrNoPart = errors.New("no such part")

// Judge says for each part asked for, or for all, whether it works with the control plane the facts are of.
func Judge(facts *Facts, parts ...Part) ([]Result, error) {
	for _, p := range parts {
		if !slices.Contains(Parts(), p) {
			return nil, fmt.Errorf("%w: %q; the parts are %v", ErrNoPart, p, Parts())
		}
	}
	results := []Result{}
	for _, r := range rooms {
		if len(parts) > 0 && !slices.Contains(parts, r.part) {
			continue
		}
		v := &verdict{Result{Part: r.part, Title: r.title, Status: Works, Planned: r.planned, Why: []string{}, Change: []string{}}}
		r.judge(facts, v)
		results = append(results, v.Result)
	}
	return results, nil
}

// Failed is true when something asked for is impossible. The two ways for a gate to pass on an identity are
// alternatives when nobody asked for one of them, and what is only planned fails nothing unless it was asked for.
func Failed(results []Result, asked ...Part) bool {
	if len(asked) > 0 {
		return slices.ContainsFunc(results, func(r Result) bool { return r.Status == Impossible })
	}
	ways, lost := 0, 0
	for _, r := range results {
		switch {
		case r.Status == Impossible && (r.Part == GateProxy || r.Part == GateActs):
			ways, lost = ways+1, lost+1
		case r.Part == GateProxy || r.Part == GateActs:
			ways++
		case r.Status == Impossible && !r.Planned:
			return true
		}
	}
	return ways > 0 && lost == ways
}

// managed says who runs the control plane: a provider's name and true when its flags are out of the user's reach.
func (f *Facts) managed() (name string, managed, known bool) {
	provider, known := f.Provider.Get()
	return provider.Name, provider.Managed, known
}

// flag is a flag of the API servers when it is visible and the same on all.
func (f *Facts) flag(name string) (string, bool) {
	flags, ok := f.Flags.Get()
	if !ok {
		return "", false
	}
	return flags.value(name)
}

// may says whether the user has a right; known is false when the API server did not say.
func (f *Facts) may(r Right) (allowed, known bool) { return f.Rights[r].Get() }

// needs makes the verdict depend on rights of the user, as whom the part would act.
func (v *verdict) needs(f *Facts, change string, rights ...Right) {
	var missing, unsure []string
	for _, r := range rights {
		switch allowed, known := f.may(r); {
		case !known:
			unsure = append(unsure, string(r))
		case !allowed:
			missing = append(missing, string(r))
		}
	}
	if len(missing) > 0 {
		v.limited("this user may not "+strings.Join(missing, ", nor "), change)
	}
	if len(unsure) > 0 {
		v.unknown("whether this user may "+strings.Join(unsure, ", "), "")
	}
}

// feature makes the verdict depend on a feature gate.
func (v *verdict) feature(f *Facts, name, without string) {
	about, ok := f.About.Get()
	on, listed := about.Features[name]
	switch {
	case !ok:
		v.unknown("whether "+name+" is on: "+f.About.Why(), "let this user read /metrics")
	case !listed:
		v.unknown("whether "+name+" is on: the API server does not list it", "")
	case !on:
		v.limited(name+" is off: "+without, "--feature-gates="+name+"=true on the API servers")
	}
}
