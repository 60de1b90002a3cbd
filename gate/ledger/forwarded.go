package ledger

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Forwarded is what went on to the API servers for one verb and resource. Unlike the ranking it forgets nobody, so that
// it can be compared with the API servers' own counts: what they have and the gate has not went round the gate.
type Forwarded struct {
	Verb     string `json:"verb"`
	Resource string `json:"resource"`
	// Ended counts requests that are over, streams included; what the gate itself refused is not in it.
	Ended int64 `json:"ended"`
	// Uncertain is the part of Ended that the API server may not have counted: it was answered 401 or 403, which the
	// API server does before it counts, or nothing came back from upstream.
	Uncertain int64 `json:"uncertain,omitempty"`
	// Open is the number of streams open now.
	Open int64 `json:"open,omitempty"`
}

// Totals is everything the gate forwarded since it started: what GET /v1/totals answers.
type Totals struct {
	Taken time.Time `json:"taken"`
	// Since is when this gate process began to count; another one means that the gate was restarted.
	Since time.Time `json:"since"`
	// AuditMark ends the Audit-ID of every request this gate process forwarded without one of the client's own.
	AuditMark string `json:"auditMark"`
	// InFlight is the number of requests being handled now that are no streams.
	InFlight int64       `json:"inFlight"`
	Rows     []Forwarded `json:"rows"`
}

// Bounds on the rows of one shard: verbs and resources are chosen by clients. A cluster with all its custom resources
// has some thousand rows over all shards; what is over the bound is counted as "other".
const maxForwarded = 2048

// forwardedKey is a row's name.
type forwardedKey struct{ verb, resource string }

// forwarded is a shard's part of Totals, under the shard's lock.
type forwarded map[forwardedKey]*Forwarded

func (w forwarded) add(key Key, o *Outcome, st step) {
	if o.RejectedBy != "" || o.Shared || !st.ended && st.streams == 0 {
		return
	}
	row, ok := w[forwardedKey{key.Verb, key.Resource}]
	if !ok {
		row = w.admit(key)
	}
	row.Open += int64(st.streams)
	if st.ended {
		row.Ended++
		if o.Unanswered || o.Code == http.StatusUnauthorized || o.Code == http.StatusForbidden {
			row.Uncertain++
		}
	}
}

func (w forwarded) admit(key Key) *Forwarded {
	if len(w) >= maxForwarded {
		key.Verb, key.Resource = other, other
		if row, ok := w[forwardedKey{other, other}]; ok {
			return row
		}
	}
	// The strings are parts of the request's; a row must not keep a whole URL alive.
	row := &Forwarded{Verb: strings.Clone(key.Verb), Resource: strings.Clone(key.Resource)}
	w[forwardedKey{row.Verb, row.Resource}] = row
	return row
}

// Totals returns what was forwarded so far, ordered by verb and resource.
func (l *Ledger) Totals() Totals {
	totals := Totals{
		Taken: l.opts.Clock(), Since: l.started,
		InFlight: max(0, valueOf(l.metrics.inFlight)-valueOf(l.metrics.streams)),
		Rows:     []Forwarded{},
	}
	merged := map[forwardedKey]*Forwarded{}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for key, row := range s.forwarded {
			into, ok := merged[key]
			if !ok {
				into = &Forwarded{Verb: row.Verb, Resource: row.Resource}
				merged[key] = into
			}
			into.Ended += row.Ended
			into.Uncertain += row.Uncertain
			into.Open += row.Open
		}
		s.mu.Unlock()
	}
	for _, row := range merged {
		totals.Rows = append(totals.Rows, *row)
	}
	slices.SortFunc(totals.Rows, func(a, b Forwarded) int {
		return cmp.Or(cmp.Compare(a.Verb, b.Verb), cmp.Compare(a.Resource, b.Resource))
	})
	return totals
}

func valueOf(gauge prometheus.Gauge) int64 {
	var m dto.Metric
	if err := gauge.Write(&m); err != nil {
		return 0 // a gauge of ours always writes
	}
	return int64(m.GetGauge().GetValue())
}
