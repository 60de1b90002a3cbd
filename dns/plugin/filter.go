package plugin

import (
	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/seakeep/seakeep/dns/plugin/batch"
)

// filtering is what the kernel drops before it is queued.
type filtering struct {
	on  bool
	off bool // the kernel would not have it: clients are cut here only
}

// refilter has the kernel drop what clients send over their share. To take in and drop a query costs a quarter of what it
// costs to answer one, and a client at twice the capacity fills the socket's memory each time that the reader is kept
// from running for some milliseconds: then it is the others' queries that are lost.
func (r *reader) refilter() {
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
	}
	if err := r.conn.Filter(parts); err != nil {
		clog.Warningf("plugin/seakeep: %s cannot have the kernel drop what one client sends too much: %v", r.front.addr, err)
		r.filter = filtering{off: true}
		r.limiter.Whole()
		return
	}
	r.filter.on = len(parts) > 0
}
