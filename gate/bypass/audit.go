package bypass

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Bounds on what others wrote: a line at level RequestResponse carries two objects of up to 3 MiB each, and the names in
// it are the clients' choice.
const (
	maxAuditLine = 16 << 20
	maxClients   = 10_000
	maxName      = 200
)

// apiServerUser is whom an API server is to itself.
const apiServerUser = "system:apiserver"

// Client is who sends requests, as an API server's audit log has it.
type Client struct {
	User string `json:"user"`
	// UserAgent is its first word: kubelet/v1.36.3.
	UserAgent string `json:"userAgent"`
	// Source is the address the API server saw: behind a gate or a balancer that does not keep it, theirs.
	Source string `json:"source"`
}

// ClientRow is one client's requests.
type ClientRow struct {
	Client
	// Round is how many went round the gates, Gates how many came through one.
	Round int64 `json:"round"`
	Gates int64 `json:"gates"`
}

// Clients is what the audit logs say of the interval.
type Clients struct {
	// Events are the requests answered in the interval; Self of them the API servers' own, Gates through a gate, Round
	// the rest.
	Events int64 `json:"events"`
	Self   int64 `json:"self"`
	Gates  int64 `json:"gates"`
	Round  int64 `json:"round"`
	// Malformed, TooLong and Torn lines were passed over; a torn line is one still being written. OtherStages would
	// count a request twice, Outside ended before or after the interval.
	Malformed   int64 `json:"malformed"`
	TooLong     int64 `json:"tooLong"`
	Torn        int64 `json:"torn"`
	OtherStages int64 `json:"otherStages"`
	Outside     int64 `json:"outside"`
	// Dropped clients are over the bound of what is kept; their requests are in the sums.
	Dropped int64 `json:"dropped,omitempty"`
	// List is who went round, most first.
	List []ClientRow `json:"list"`
}

// Audit counts the events of audit logs by client. It is not safe for concurrent use; its memory does not grow with the
// log.
type Audit struct {
	marks    []string
	from, to time.Time
	sums     Clients
	clients  map[Client]*ClientRow
}

// NewAudit counts what was answered from from to to. marks are the gates' audit marks: a request whose Audit-ID ends with
// one of them came through that gate. A client's own Audit-ID is passed on by the gate and so looks as if it had gone
// round; hardly any client sends one.
func NewAudit(marks []string, from, to time.Time) *Audit {
	usable := slices.DeleteFunc(slices.Clone(marks), func(m string) bool { return len(m) < 8 }) // "" would match all
	return &Audit{marks: usable, from: from, to: to, clients: map[Client]*ClientRow{}}
}

// Read adds JSON lines. Lines it cannot use are counted, not an error: what is left of a log after an outage is rarely
// whole.
func (a *Audit) Read(r io.Reader) error {
	lines := bufio.NewReaderSize(r, 256<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if len(line)+len(part) <= maxAuditLine {
			line = append(line, part...)
		} else {
			line = append(line[:0], make([]byte, maxAuditLine+1)...) // too long, and its length says so
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			if len(bytes.TrimSpace(line)) > 0 {
				a.add(line, true)
			}
			return nil
		case err != nil:
			return fmt.Errorf("reading an audit log: %w", err)
		}
		a.add(line, false)
		line = line[:0]
	}
}

// auditEvent is the part of audit.k8s.io/v1 Event that says who.
type auditEvent struct {
	Kind    string `json:"kind"`
	Stage   string `json:"stage"`
	AuditID string `json:"auditID"`
	User    struct {
		Username string `json:"username"`
	} `json:"user"`
	ImpersonatedUser *struct {
		Username string `json:"username"`
	} `json:"impersonatedUser"`
	SourceIPs []string  `json:"sourceIPs"`
	UserAgent string    `json:"userAgent"`
	Staged    time.Time `json:"stageTimestamp"`
}

func (a *Audit) add(line []byte, last bool) {
	if len(line) > maxAuditLine {
		a.sums.TooLong++
		return
	}
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return
	}
	var e auditEvent
	if err := json.Unmarshal(line, &e); err != nil || e.Kind != "Event" || e.Staged.IsZero() {
		if last {
			a.sums.Torn++
		} else {
			a.sums.Malformed++
		}
		return
	}
	switch {
	case e.Stage != "ResponseComplete":
		a.sums.OtherStages++
	case e.Staged.Before(a.from) || e.Staged.After(a.to):
		a.sums.Outside++
	default:
		a.count(&e)
	}
}

func (a *Audit) count(e *auditEvent) {
	a.sums.Events++
	if e.User.Username == apiServerUser {
		a.sums.Self++
		return
	}
	row := a.row(e)
	if slices.ContainsFunc(a.marks, func(mark string) bool { return strings.HasSuffix(e.AuditID, mark) }) {
		a.sums.Gates++
		row.Gates++
		return
	}
	a.sums.Round++
	row.Round++
}

func (a *Audit) row(e *auditEvent) *ClientRow {
	agent, _, _ := strings.Cut(e.UserAgent, " ")
	client := Client{User: bounded(e.User.Username), UserAgent: bounded(agent)}
	if e.ImpersonatedUser != nil && e.ImpersonatedUser.Username != "" {
		client.User = bounded(e.ImpersonatedUser.Username)
	}
	if len(e.SourceIPs) > 0 {
		client.Source = bounded(e.SourceIPs[len(e.SourceIPs)-1]) // the last is the connection's; those before are claims
	}
	row, ok := a.clients[client]
	switch {
	case ok:
	case len(a.clients) >= maxClients:
		a.sums.Dropped++
		row = &ClientRow{}
	default:
		row = &ClientRow{Client: client}
		a.clients[client] = row
	}
	return row
}

func bounded(s string) string {
	if len(s) <= maxName {
		return s
	}
	return strings.ToValidUTF8(s[:maxName-3], "") + "…"
}

// Clients returns what was counted; n bounds the list, 0 does not.
func (a *Audit) Clients(n int) *Clients {
	sums := a.sums
	sums.List = []ClientRow{}
	for _, row := range a.clients {
		if row.Round > 0 {
			sums.List = append(sums.List, *row)
		}
	}
	slices.SortFunc(sums.List, func(x, y ClientRow) int {
		return cmp.Or(cmp.Compare(y.Round, x.Round), cmp.Compare(x.User, y.User), cmp.Compare(x.UserAgent, y.UserAgent), cmp.Compare(x.Source, y.Source))
	})
	if n > 0 && n < len(sums.List) {
		sums.List = slices.Clip(sums.List[:n])
	}
	return &sums
}
