package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// Ledger is one gate's admin endpoint.
type Ledger struct {
	// Name is for messages, URL of the endpoint without a path; Client reaches it over its socket or with its certificate.
	Name, URL string
	Client    *http.Client
}

// Gates measures by gates' ledgers, which count bytes and open watches besides. All gates of the cluster must be named. A user
// is an identity and tells the component from others; a user agent is a claim, and only divides one user's requests.
type Gates struct {
	Ledgers []Ledger
	// User is the component's: system:serviceaccount:namespace:name.
	User string
	// Agents are globs over user agents; none: all of the user's.
	Agents []string
}

// ServiceAccountUser is the user name of a service account given as namespace/name.
func ServiceAccountUser(account string) string {
	namespace, name := path.Split(account)
	return "system:serviceaccount:" + path.Clean(namespace) + ":" + name
}

// top is what is read of a gate's GET /v1/top; gate/ledger.Snapshot says what the fields mean.
type top struct {
	Taken   time.Time  `json:"taken"`
	Since   time.Time  `json:"since"`
	Entries []topEntry `json:"entries"`
	Rates   struct {
		TenMinutes struct {
			Requests float64 `json:"requests"`
			Rejected float64 `json:"rejected"`
		} `json:"10m"`
	} `json:"rates"`
	Total topAmounts `json:"total"`
}

type topAmounts struct {
	Requests      int64            `json:"requests"`
	Rejected      int64            `json:"rejected"`
	SeatSeconds   float64          `json:"seatSeconds"`
	RequestBytes  int64            `json:"requestBytes"`
	ResponseBytes int64            `json:"responseBytes"`
	Codes         map[string]int64 `json:"codes"`
}

type topEntry struct {
	User      string `json:"user"`
	UserAgent string `json:"userAgent"`
	Verb      string `json:"verb"`
	Resource  string `json:"resource"`
	topAmounts
	Since       time.Time `json:"since"`
	OpenStreams int       `json:"openStreams"`
}

// maxTop bounds a gate's answer: 16,384 clients are some 10 MB.
const maxTop = 64 << 20

func readTop(r io.Reader) (t top, err error) {
	if err := json.NewDecoder(io.LimitReader(r, maxTop)).Decode(&t); err != nil {
		return top{}, fmt.Errorf("parsing a gate's ranking: %w", err)
	}
	if t.Taken.IsZero() || t.Since.IsZero() {
		return top{}, errors.New("parsing a gate's ranking: it does not say when it was taken, and since when it counts")
	}
	return t, nil
}

// key is one line of a ledger. Since tells one that was dropped and began anew.
type key struct {
	agent, verb, resource string
	since                 time.Time
}

type gateMark struct {
	taken time.Time
	since []time.Time
	rows  []map[key]topEntry
	total []topAmounts
}

// Mark implements Meter.
func (g *Gates) Mark(ctx context.Context) (Mark, error) {
	if len(g.Ledgers) == 0 {
		return nil, errors.New("there is no gate to ask")
	}
	n := len(g.Ledgers)
	m := &gateMark{since: make([]time.Time, n), rows: make([]map[key]topEntry, n), total: make([]topAmounts, n)}
	tops, errs := make([]top, n), make([]error, n)
	var all sync.WaitGroup
	for i, l := range g.Ledgers {
		all.Go(func() { tops[i], errs[i] = l.read(ctx) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m.taken = tops[0].Taken
	for i, t := range tops {
		m.since[i], m.total[i], m.rows[i] = t.Since, t.Total, map[key]topEntry{}
		for _, e := range t.Entries {
			if e.User == g.User && g.claims(e.UserAgent) {
				m.rows[i][key{e.UserAgent, e.Verb, e.Resource, e.Since}] = e
			}
		}
	}
	return m, nil
}

func (g *Gates) claims(agent string) bool {
	for _, glob := range g.Agents {
		if ok, err := path.Match(glob, agent); err == nil && ok {
			return true
		}
	}
	return len(g.Agents) == 0
}

func (l *Ledger) read(ctx context.Context) (top, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL+"/v1/top?n=0", nil)
	if err != nil {
		return top{}, fmt.Errorf("asking the gate %s: %w", l.Name, err)
	}
	response, err := l.Client.Do(request)
	if err != nil {
		return top{}, fmt.Errorf("asking the gate %s: %w", l.Name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return top{}, fmt.Errorf("asking the gate %s: it answers %s", l.Name, response.Status)
	}
	t, err := readTop(response.Body)
	if err != nil {
		return top{}, fmt.Errorf("asking the gate %s: %w", l.Name, err)
	}
	return t, nil
}

// Taken implements Mark.
func (m *gateMark) Taken() time.Time { return m.taken }

// Since implements Mark.
func (m *gateMark) Since(earlier Mark) (Cost, error) {
	before, ok := earlier.(*gateMark)
	if !ok || len(before.rows) != len(m.rows) {
		return Cost{}, errors.New("the gates are not the same ones")
	}
	seconds := m.taken.Sub(before.taken).Seconds()
	if seconds <= 0 {
		return Cost{}, errors.New("no time has passed")
	}
	var seats, requests, bytes, watches, refused, refusedAll, all float64
	for i, rows := range m.rows {
		if !m.since[i].Equal(before.since[i]) {
			return Cost{}, errors.New("a gate began anew")
		}
		for k := range before.rows[i] {
			if _, stays := rows[k]; !stays {
				return Cost{}, errors.New("a gate forgot a line of the component, because it keeps too few clients")
			}
		}
		for k, e := range rows {
			then := before.rows[i][k]
			seats += e.SeatSeconds - then.SeatSeconds
			requests += float64(e.Requests - then.Requests)
			bytes += float64(e.RequestBytes + e.ResponseBytes - then.RequestBytes - then.ResponseBytes)
			watches += float64(e.OpenStreams)
			refused += float64(e.Codes["429"] - then.Codes["429"])
		}
		refusedAll += float64(m.total[i].Codes["429"] - before.total[i].Codes["429"])
		all += float64(m.total[i].Requests - before.total[i].Requests)
	}
	cost := Cost{Own: map[forecast.Kind]float64{
		forecast.Seats: max(0, seats/seconds), forecast.Requests: max(0, requests/seconds), forecast.Bytes: max(0, bytes/seconds), forecast.Watches: watches,
	}}
	// Who is refused while nearly everybody is, was in the way of others; who is refused nearly alone has earned it.
	switch elsewhere := refusedAll - refused; {
	case refused > 0 && elsewhere <= busyElse*all:
		cost.Censored = forecast.ByItself
	case refused > 0, elsewhere > busyElse*all:
		cost.Censored = forecast.ByOthers
	}
	return cost, nil
}
