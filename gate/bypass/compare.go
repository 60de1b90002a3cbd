package bypass

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/signals"
)

// Kind is what both sides' counts are brought to: the gate's words.
type Kind struct {
	Verb string `json:"verb"`
	// Resource is resource or resource/subresource, or /segment for a path outside the resource API. Groups are added
	// up: the gate's ledger does not tell them apart.
	Resource string `json:"resource"`
}

// GateReading is one gate's totals four times: before and after each reading of the API servers. What it forwarded between
// the inner two is certainly within the API servers' interval, between the outer two certainly all of it.
type GateReading struct {
	Outer, Inner [2]ledger.Totals
}

// Row is one kind of request.
type Row struct {
	Kind
	// APIServers answered so many, Self of them their own over their loopback; Gates forwarded so many.
	APIServers int64 `json:"apiServers"`
	Self       int64 `json:"self"`
	Gates      int64 `json:"gates"`
	// Round is what went round the gates: at least AtLeast, at most AtMost.
	Round   int64 `json:"round"`
	AtLeast int64 `json:"atLeast"`
	AtMost  int64 `json:"atMost"`
}

// Share is Round as a part of what others than the API servers themselves sent; 0 when nobody sent anything.
func (row *Row) Share() float64 { return share(row.Round, row.APIServers-row.Self) }

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}

// OpenRow is streams open at the end, by kind.
type OpenRow struct {
	Kind
	APIServers int64 `json:"apiServers"`
	Gates      int64 `json:"gates"`
	// Round is the difference. The API servers' own informers are in it: they do not count those apart.
	Round int64 `json:"round"`
}

// Report is the comparison.
type Report struct {
	// Seconds is the length of the shortest interval read, Servers and Gates how many of each.
	Seconds float64 `json:"seconds"`
	Servers int     `json:"servers"`
	Gates   int     `json:"gates"`
	// Total adds up the rows. It leaves out what the gates forwarded and no API server counts: a path that nobody
	// serves, and requests that an aggregated API server answered.
	Total Row `json:"total"`
	// Share and ShareAtLeast, ShareAtMost are the parts of Total that went round, 0–1.
	Share        float64 `json:"share"`
	ShareAtLeast float64 `json:"shareAtLeast"`
	ShareAtMost  float64 `json:"shareAtMost"`
	// Rows are the kinds of which something may have gone round, most first.
	Rows []Row `json:"rows"`
	// Open are streams: a watch that was opened before and goes on is in no count of requests.
	Open []OpenRow `json:"open"`
	// SelfKnown is false when an API server does not count its own requests apart: they are then among Round.
	SelfKnown bool `json:"selfKnown"`
	// InFlight is how many requests were on their way at the readings; each may count on one side only.
	InFlight int64 `json:"inFlight"`
	// Warnings say why the numbers are less than they look.
	Warnings []string `json:"warnings,omitempty"`
	// Clients is by client, from the audit logs; nil when none was read.
	Clients *Clients `json:"clients,omitempty"`
}

// Compare compares. Every slice of servers is one API server, of open its streams at the end.
func Compare(servers []signals.RequestChange, open []map[signals.RequestKind]float64, gates []GateReading) Report {
	report := Report{Servers: len(servers), Gates: len(gates), SelfKnown: true, Seconds: math.Inf(1), Rows: []Row{}, Open: []OpenRow{}}
	rows := map[Kind]*Row{}
	for _, s := range servers {
		report.Seconds = min(report.Seconds, s.Seconds)
		for kind, n := range s.Answered {
			at(rows, kindOf(kind)).APIServers += int64(n)
		}
		for kind, n := range s.Self {
			at(rows, kindOf(kind)).Self += int64(n)
		}
		report.SelfKnown = report.SelfKnown && s.Self != nil
		if s.Restarted {
			report.warn("an API server was restarted meanwhile, or two answered behind one address (name each): what the first one answered is lost")
		}
	}
	forwarded := map[Kind]*bounds{}
	for _, g := range gates {
		report.addGate(forwarded, g)
	}
	if len(servers) == 0 {
		report.Seconds = 0
	}
	if !report.SelfKnown {
		report.warn("an API server does not count its own requests apart: they are among those that went round")
	}
	for kind, row := range rows {
		f, ok := forwarded[kind]
		if !ok {
			f = &bounds{}
		}
		row.Kind = kind
		row.judge(f, report.InFlight)
		report.Total.add(row)
		if row.AtMost > 0 {
			report.Rows = append(report.Rows, *row)
		}
	}
	report.total(rows, forwarded)
	slices.SortFunc(report.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Round, a.Round), cmp.Compare(b.AtMost, a.AtMost), compareKinds(a.Kind, b.Kind))
	})
	report.Open = openRows(open, gates)
	return report
}

// bounds of what the gates forwarded of one kind.
type bounds struct{ low, high int64 }

func (r *Report) warn(text string) {
	if !slices.Contains(r.Warnings, text) {
		r.Warnings = append(r.Warnings, text)
	}
}

func (r *Report) addGate(forwarded map[Kind]*bounds, g GateReading) {
	if !g.Outer[0].Since.Equal(g.Outer[1].Since) {
		r.warn("a gate was restarted meanwhile: what it forwarded before is lost, and looks as if it had gone round; measure again")
	}
	r.InFlight += max(g.Inner[0].InFlight, g.Outer[0].InFlight) + max(g.Inner[1].InFlight, g.Outer[1].InFlight)
	outer, inner := between(g.Outer), between(g.Inner)
	for kind, n := range outer {
		b, ok := forwarded[kind]
		if !ok {
			b = &bounds{}
			forwarded[kind] = b
		}
		b.high += n.Ended
		// What the API server may not have counted can only make the gate's number too high.
		b.low += max(0, inner[kind].Ended-n.Uncertain)
	}
}

// between is what a gate forwarded between two of its totals.
func between(totals [2]ledger.Totals) map[Kind]ledger.Forwarded {
	added := map[Kind]ledger.Forwarded{}
	for i, sign := range [2]int64{-1, 1} {
		for _, row := range totals[i].Rows {
			kind := kindOfGate(row.Verb, row.Resource)
			sum := added[kind]
			sum.Ended += sign * row.Ended
			sum.Uncertain += sign * row.Uncertain
			added[kind] = sum
		}
	}
	for kind, sum := range added {
		sum.Ended, sum.Uncertain = max(0, sum.Ended), max(0, sum.Uncertain)
		added[kind] = sum
	}
	return added
}

// judge says what of a kind went round. slack is how many requests may be counted on one side only.
func (row *Row) judge(f *bounds, slack int64) {
	others := max(0, row.APIServers-row.Self)
	slack = min(slack, f.high)
	row.Gates = min((f.low+f.high+1)/2, max(f.low, others))
	row.AtLeast = max(0, others-f.high-slack)
	row.AtMost = max(0, others-max(0, f.low-slack))
	row.Round = min(max(others-row.Gates, row.AtLeast), row.AtMost)
}

func (row *Row) add(other *Row) {
	row.APIServers += other.APIServers
	row.Self += other.Self
	row.Gates += other.Gates
	row.Round += other.Round
}

// total bounds the sum. The requests in flight are the same ones for every row, so the slack of the rows must not be
// added up.
func (r *Report) total(rows map[Kind]*Row, forwarded map[Kind]*bounds) {
	var low, high int64
	for kind, row := range rows {
		others := max(0, row.APIServers-row.Self)
		f, ok := forwarded[kind]
		if !ok {
			f = &bounds{}
		}
		low += max(0, others-f.high)
		high += max(0, others-f.low)
	}
	t := &r.Total
	t.AtLeast, t.AtMost = max(0, low-r.InFlight), min(high+r.InFlight, max(0, t.APIServers-t.Self))
	t.Round = min(max(t.Round, t.AtLeast), t.AtMost)
	r.Share = t.Share()
	r.ShareAtLeast, r.ShareAtMost = share(t.AtLeast, t.APIServers-t.Self), share(t.AtMost, t.APIServers-t.Self)
}

func openRows(servers []map[signals.RequestKind]float64, gates []GateReading) []OpenRow {
	rows := map[Kind]*OpenRow{}
	for _, open := range servers {
		for kind, n := range open {
			at(rows, kindOf(kind)).APIServers += int64(n)
		}
	}
	for _, g := range gates {
		for _, row := range g.Outer[1].Rows {
			if r, ok := rows[kindOfGate(row.Verb, row.Resource)]; ok {
				r.Gates += row.Open
			}
		}
	}
	list := []OpenRow{}
	for kind, row := range rows {
		row.Kind, row.Round = kind, max(0, row.APIServers-row.Gates)
		if row.Round > 0 {
			list = append(list, *row)
		}
	}
	slices.SortFunc(list, func(a, b OpenRow) int {
		return cmp.Or(cmp.Compare(b.Round, a.Round), compareKinds(a.Kind, b.Kind))
	})
	return list
}

func at[T any](rows map[Kind]*T, kind Kind) *T {
	row, ok := rows[kind]
	if !ok {
		row = new(T)
		rows[kind] = row
	}
	return row
}

func compareKinds(a, b Kind) int {
	return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Verb, b.Verb))
}

// verbs are the API server's words for what the gate calls by the Kubernetes verb.
var verbs = map[string]string{"POST": "create", "PUT": "update", "PATCH": "patch", "APPLY": "patch", "HEAD": "get"}

// kindOf translates the API server's counters. It calls everything on a streaming subresource CONNECT, logs that are not
// followed included (validConnectRequests in k8s.io/apiserver), so both sides are brought to that.
func kindOf(k signals.RequestKind) Kind {
	if k.Resource == "" {
		segment, _, _ := strings.Cut(strings.TrimPrefix(k.Subresource, "/"), "/")
		return Kind{Verb: strings.ToLower(k.Verb), Resource: "/" + segment}
	}
	verb, ok := verbs[k.Verb]
	if !ok {
		verb = strings.ToLower(k.Verb)
	}
	resource := k.Resource
	if k.Subresource != "" {
		resource += "/" + k.Subresource
	}
	return connect(Kind{Verb: verb, Resource: resource})
}

func kindOfGate(verb, resource string) Kind { return connect(Kind{Verb: verb, Resource: resource}) }

func connect(k Kind) Kind {
	if _, subresource, ok := strings.Cut(k.Resource, "/"); ok && !strings.HasPrefix(k.Resource, "/") {
		switch subresource {
		case "log", "exec", "attach", "portforward", "proxy":
			k.Verb = "connect"
		}
	}
	return k
}
