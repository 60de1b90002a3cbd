package plugin

import (
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/seakeep/seakeep/dns/plugin/batch"
)

// filtering is what the kernel drops before it is queued.
type filtering struct {
	on   bool
	off  bool      // the kernel would not have it: clients are cut here only
	said time.Time // when a client was named in the log last
}

// sayEvery is how often the log names a client that is cut: whoever sends that much must not fill the log too.
const sayEvery = time.Minute

// refilter has the kernel drop what clients send over their share. To take in and drop a query costs a quarter of what it
// costs to answer one, and a client at twice the capacity fills the socket's memory each time that the reader is kept
// from running for some milliseconds: then it is the others' queries that are lost.
func (r *reader) refilter(now time.Time) {
	if r.filter.off {
		return
	}
	shares := r.limiter.Shares()
	if len(shares) == 0 && !r.filter.on {
		return
	}
	_, _, _ = r.queue() // what was lost until now was lost with the filter that was
	parts := make([]batch.Part, len(shares))
	for i, s := range shares {
		parts[i] = batch.Part{Source: s.Client, Pass: s.Pass}
		if now.Sub(r.filter.said) >= sayEvery {
			r.filter.said = now
			clog.Warningf("plugin/seakeep: client %s asks %.0f queries/s of %s, more than there is room for; it is cut to %.0f", s.Client, s.Asks, r.front.addr, s.Asks*s.Pass)
		}
	}
	if err := r.conn.Filter(parts); err != nil {
		clog.Warningf("plugin/seakeep: %s cannot have the kernel drop what one client sends too much: %v", r.front.addr, err)
		_ = r.conn.Filter(nil) // the one before, if any, must not stay for ever
		r.filter.on, r.filter.off = false, true
		r.limiter.Whole()
		return
	}
	r.filter.on = len(parts) > 0
}
