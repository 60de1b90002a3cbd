package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/gate/relay/commit"
	"github.com/seakeep/seakeep/gate/relay/held"
	"github.com/seakeep/seakeep/gate/upstream"
)

// errPatience is the client's own limit on waiting.
var errPatience = errors.New("the client's own time limit is over")

// unknown tells a caller nobody vouches for from one that could not be looked up.
func unknown(err error) reason {
	if errors.Is(err, access.ErrUnknown) {
		return forwardedUnauthenticated
	}
	return forwardedAuthorizer
}

// share answers a LIST or a WatchList from a batch. It returns why the request is to be forwarded instead, and then nothing
// was written.
func (r *Relay) share(w http.ResponseWriter, req *http.Request, f *flow.Request, a *asked, done func(upstream.Result)) reason {
	ctx := req.Context()
	if a.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, f.Arrived.Add(a.patience), errPatience)
		defer cancel()
	}
	e, b, reader := r.join(a, f, func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) })
	if reader == nil {
		return forwardedVersion
	}
	left := false
	leave := func() {
		if !left {
			left = true
			reader.Close()
			r.leave(e, b)
		}
	}
	defer leave()

	var result upstream.Result
	select {
	case <-b.Data.headed:
	case <-ctx.Done():
		result.Code, result.Err = upstream.WriteEnded(w, ctx, errPatience)
		done(result)
		return ""
	}
	if why := r.unfit(e, b, a); why != "" {
		return why
	}
	d := &delivery{relay: r, entry: e, batch: b, reader: reader, w: &upstream.Counted{ResponseWriter: w}}
	if b.Data.failed != nil {
		result.Code, result.Err = upstream.WriteFailed(w, b.Data.failed, r.patience), b.Data.failed
		d.account(&result)
		done(result)
		return ""
	}
	result.Code, result.Err = b.Data.code, d.run(ctx)
	d.account(&result)
	if result.Err == nil && a.key.initial && b.Data.ok() {
		version := r.versionOf(b)
		leave() // the initial events need not be held while the reader follows what comes next
		result.Err = d.followOn(req, f, a, version)
		r.metrics.bytes.Add(float64(d.w.Bytes - result.ResponseBytes))
		result.ResponseBytes = d.w.Bytes
	}
	done(result)
	if result.Err != nil {
		panic(http.ErrAbortHandler) // the status is out; only a broken connection says that this is not all
	}
	return ""
}

// join finds the request's batch and begins to read its answer.
func (r *Relay) join(a *asked, f *flow.Request, cut func()) (*entry, *batch, *held.Reader) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entryOf(a, now)
	if a.key.initial && a.ask.NotBelow > e.commit.Served() {
		return e, nil, nil // its version would be known only when the header is long gone
	}
	for {
		b, action := e.commit.Join(now, a.ask, r.current(e, now))
		reader := b.Data.body.NewReader(cut)
		if reader == nil { // its beginning was given up a moment ago
			e.commit.Torn(b)
			e.commit.Leave(b)
			continue
		}
		e.readers++
		if r.rank != nil {
			b.Data.raise(r.rank(f))
		}
		if action == commit.Start {
			r.start(e, b)
		}
		return e, b, reader
	}
}

// unfit is why an answer is not for this request.
func (r *Relay) unfit(e *entry, b *batch, a *asked) reason {
	switch {
	case b.Data.refusesUs():
		r.complain(e, b.Data.code)
		return forwardedIdentity
	case a.ask.Class == commit.Cached && (b.Data.failed != nil || b.Data.code >= http.StatusInternalServerError) && !upstream.NeverSent(b.Data.failed):
		// What failed may have been the version asked for on behalf of others, or the etcd behind it.
		return forwardedFailed
	case !a.key.initial && a.ask.NotBelow > 0 && b.Data.ok() && r.versionOf(b) < a.ask.NotBelow:
		return forwardedVersion
	}
	return ""
}

func (r *Relay) versionOf(b *batch) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.Version()
}

// complain says, now and then, that the gate may not read what it is told to share.
func (r *Relay) complain(e *entry, code int) {
	r.mu.Lock()
	again := time.Since(r.complained) > time.Minute
	if again {
		r.complained = time.Now()
	}
	r.mu.Unlock()
	if again {
		r.log.Error("The API server refuses the gate's own identity what a rule shares; requests are forwarded, each on its own",
			"user", r.settings.config.User, "resource", e.resource.String(), "code", code)
	}
}

// delivery is one reader's answer on its way to the client.
type delivery struct {
	relay  *Relay
	entry  *entry
	batch  *batch
	reader *held.Reader
	w      *upstream.Counted
}

// run writes the answer and returns nil when all of it was written.
func (d *delivery) run(ctx context.Context) error {
	copyHeader(d.w.Header(), d.batch.Data.header)
	d.w.WriteHeader(d.batch.Data.code)
	flusher := http.NewResponseController(d.w)
	var mine *turn
	if !d.batch.Data.body.Within(turnless) {
		mine = &turn{of: d.relay.turns}
		defer mine.lose()
	}
	for {
		if !d.reader.Ready() {
			_ = flusher.Flush() // what is there should not wait for what is not
			mine.lose()
		}
		p, err := d.reader.Next(ctx)
		if err == io.EOF {
			if d.entry.key.initial {
				_ = flusher.Flush() // the stream goes on, and the end of its initial events must not wait for the first event
			}
			return nil
		}
		if err != nil {
			return err
		}
		err = mine.write(ctx, func() error {
			_, err := d.w.Write(p)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// account notes what was delivered, and its part of what it cost.
func (d *delivery) account(result *upstream.Result) {
	result.ResponseBytes = d.w.Bytes
	result.Shared = true
	r := d.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	result.Upstream = d.batch.Data.share(d.batch.Joined)
	for _, s := range [...]*Sharing{&d.entry.sharing, &r.total} {
		s.Answers++
		s.BytesDelivered += d.w.Bytes
	}
	r.metrics.answered(d.entry.key.initial, d.w.Bytes)
}
