package relay

import (
	"errors"
	"net/http"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/gate/upstream"
)

// follow answers a WATCH from a version on. It returns why it is to be forwarded instead, and then nothing was written.
func (r *Relay) follow(w http.ResponseWriter, req *http.Request, f *flow.Request, a *asked, done func(upstream.Result)) reason {
	counted := &upstream.Counted{ResponseWriter: w}
	err := r.hub.Follow(counted, req, f, a.from, r.subscriber(req, f, a))
	if why := notShared(err); why != "" {
		return why
	}
	result := upstream.Result{Code: counted.Code, ResponseBytes: counted.Bytes, Shared: true, Err: err}
	r.metrics.bytes.Add(float64(counted.Bytes))
	done(result)
	if err != nil {
		panic(http.ErrAbortHandler) // an event may have been cut in two
	}
	return ""
}

// followOn goes on after the initial events of a WatchList, from the version of their end. Its answer has begun, so there is
// no way but on: what cannot be followed ends cleanly, and the client comes back with its version.
func (d *delivery) followOn(req *http.Request, f *flow.Request, a *asked, version uint64) error {
	subscriber := d.relay.subscriber(req, f, a)
	subscriber.Begun = true
	err := d.relay.hub.Follow(d.w, req, f, version, subscriber)
	if notShared(err) != "" {
		return nil
	}
	return err
}

// subscriber is what a request wants of a watch.
func (r *Relay) subscriber(req *http.Request, f *flow.Request, a *asked) watch.Subscriber {
	return watch.Subscriber{Bookmarks: a.bookmarks, Timeout: a.lasts, Filter: a.rule.filter, Recheck: r.recheck(req, f)}
}

// notShared is why a watch is to be forwarded, "" when it was served.
func notShared(err error) reason {
	var not *watch.NotSharedError
	if !errors.As(err, &not) {
		return ""
	}
	switch not.Reason {
	case watch.ReasonTable, watch.ReasonMediaType:
		return forwardedMediaType
	case watch.ReasonMemory:
		return forwardedMemory
	default:
		return forwardedFailed
	}
}
