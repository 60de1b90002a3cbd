package relay

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/gate/upstream"
)

// follow answers a WATCH from a version on. It returns why it is to be forwarded instead, and then nothing was written.
func (r *Relay) follow(w http.ResponseWriter, req *http.Request, f *flow.Request, a *asked, done func(upstream.Result)) reason {
	counted := &counting{ResponseWriter: w}
	err := r.hub.Follow(counted, req, f, a.from, r.subscriber(req, f, a))
	if why := notShared(err); why != "" {
		return why
	}
	result := upstream.Result{Code: counted.code, ResponseBytes: counted.bytes, Shared: true, Err: err}
	r.metrics.bytes.Add(float64(counted.bytes))
	done(result)
	if err != nil {
		panic(http.ErrAbortHandler) // an event may have been cut in two
	}
	return ""
}

// followOn goes on after the initial events of a WatchList, from the version of their end. Its answer has begun, so there is
// no way but on: what cannot be followed ends cleanly, and the client comes back with its version.
func (d *delivery) followOn(req *http.Request, f *flow.Request, a *asked, version uint64, result *upstream.Result) {
	counted := &counting{ResponseWriter: d.w}
	subscriber := d.relay.subscriber(req, f, a)
	subscriber.Begun = true
	if err := d.relay.hub.Follow(counted, req, f, version, subscriber); notShared(err) == "" {
		result.Err = err
	}
	result.ResponseBytes += counted.bytes
	d.relay.metrics.bytes.Add(float64(counted.bytes))
}

// subscriber is what a request wants of a watch.
func (r *Relay) subscriber(req *http.Request, f *flow.Request, a *asked) watch.Subscriber {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		query = nil // cannot be: it was parsed before
	}
	seconds, err := strconv.ParseInt(query.Get("timeoutSeconds"), 10, 32)
	if err != nil {
		seconds = 0 // as the API server takes it: none
	}
	return watch.Subscriber{
		Bookmarks: isTrue(query.Get("allowWatchBookmarks")),
		Timeout:   time.Duration(max(0, seconds)) * time.Second,
		Filter:    a.rule.filter,
		Recheck:   r.recheck(req, f),
	}
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

// counting counts what a stream writes, and notes its status.
type counting struct {
	http.ResponseWriter
	code  int
	bytes int64
}

// WriteHeader implements http.ResponseWriter.
func (c *counting) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach Flush and deadlines.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }
