package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/gate/relay/commit"
	"github.com/seakeep/seakeep/gate/relay/frame"
	"github.com/seakeep/seakeep/gate/upstream"
)

// userAgent is how the gate's own reads show in the API server's audit log and in `seakeep gate top`.
const userAgent = "seakeep-gate/relay"

// start begins a batch's read. It is called with the lock held.
func (r *Relay) start(e *entry, b *batch) {
	a := b.Data
	ctx, cancel := context.WithCancelCause(r.ctx)
	a.cancel, a.began = cancel, b.Started
	if !e.keeps(b) {
		a.body.Release()
		e.commit.Torn(b)
	}
	e.sharing.UpstreamReads++
	r.total.UpstreamReads++
	r.metrics.read(e.key.initial)
	r.reading.Go(func() {
		defer cancel(nil)
		r.read(ctx, cancel, e, b)
	})
}

// keeps says whether a batch's answer is worth holding for requests to come: somebody asks for answers that may have an age.
func (e *entry) keeps(b *batch) bool {
	return b.Class == commit.Cached || e.rule.maxAge > 0 || b.Started.Sub(e.agedAsk) < keepAfterAsk
}

// keepAfterAsk is how long after a request that takes an answer with an age answers are held for the next one.
const keepAfterAsk = time.Minute

// query is what the API server is asked: the key's query, and the version that the batch's class needs.
func (e *entry) upstreamQuery(b *batch) string {
	version := ""
	if b.Class == commit.Cached {
		version = "&resourceVersion=0"
		if b.Floor > 0 {
			version = "&resourceVersion=" + strconv.FormatUint(b.Floor, 10)
			if !e.key.initial {
				version += "&resourceVersionMatch=NotOlderThan"
			}
		}
	}
	if e.key.initial {
		version += "&watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
	}
	if e.key.query == "" && version != "" {
		return version[1:]
	}
	return e.key.query + version
}

// read asks the API server and fills the batch's answer. It runs in a goroutine of the relay.
func (r *Relay) read(ctx context.Context, cancel context.CancelCauseFunc, e *entry, b *batch) {
	a := b.Data
	stall := time.AfterFunc(r.patience, func() { cancel(upstream.ErrNoAnswer) })
	defer stall.Stop()
	response, err := r.ask(ctx, e, b)
	if err != nil {
		a.failed = err
		a.took.Store(int64(time.Since(a.began)))
		a.body.End(err)
		r.ended(e, b, false)
		close(a.headed)
		r.failed(err)
		return
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or given up
	r.answered()
	a.code, a.header = response.StatusCode, headerOf(response.Header)
	in := &intake{relay: r, entry: e, batch: b, response: response, stall: stall, ctx: ctx}
	err = in.run()
	a.took.Store(int64(time.Since(a.began)))
	if a.code == http.StatusOK && errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	a.body.End(err)
	r.ended(e, b, err == nil && a.code == http.StatusOK)
	in.head()
	if err != nil && !errors.Is(err, errAbandoned) && !errors.Is(err, errClosed) {
		r.log.Warn("A shared answer broke off", "path", e.key.path, "bytes", a.body.Size(), "readers", b.Joined, "reason", err)
	}
	if a.code == http.StatusGatewayTimeout && b.Class == commit.Cached && b.Floor > 0 {
		r.suspect(e)
	}
}

// memoryPatience is how long, while memory is short, an answer may hold it without any of its readers going on. A reader at
// 10 KB/s takes a chunk in less.
const memoryPatience = 10 * time.Second

// ask sends the batch's request.
func (r *Relay) ask(ctx context.Context, e *entry, b *batch) (*http.Response, error) {
	target := "https://api" + e.key.path
	if query := e.upstreamQuery(b); query != "" {
		target += "?" + query
	}
	if highest := b.Data.highest.Load(); highest > 0 {
		ctx = r.onBehalf(ctx, int(highest)-1)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, fmt.Errorf("BUG: asking for what a client asked for: %w", err)
	}
	request.Header.Set("User-Agent", userAgent)
	if e.key.accept != "" {
		request.Header.Set("Accept", e.key.accept)
	}
	encoding := "identity"
	if e.key.gzip {
		encoding = "gzip"
	}
	request.Header.Set("Accept-Encoding", encoding)
	response, err := r.upstream.RoundTrip(request)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return response, err
}

// intake carries one response into its answer's body.
type intake struct {
	relay    *Relay
	entry    *entry
	batch    *batch
	response *http.Response
	stall    *time.Timer
	ctx      context.Context //nolint:containedctx // of one read, which this is

	headed bool
	begun  []byte         // the first bytes, while the version is looked for in them
	tail   []byte         // the last bytes of a LIST whose version stands at its end
	frames *frame.Scanner // of a WatchList
	offset int64          // what it was fed
}

// run returns nil when the answer is complete.
func (in *intake) run() error {
	a, ok := in.batch.Data, in.response.StatusCode == http.StatusOK
	contentType := in.response.Header.Get("Content-Type")
	switch {
	case !ok:
		in.head()
	case in.entry.key.initial:
		scanner, err := frame.NewScanner(contentType)
		if err != nil {
			return fmt.Errorf("reading initial events: %w", err)
		}
		in.frames = scanner
		in.head()
	}
	for {
		space, err := a.body.Space(in.ctx, memoryPatience)
		if err != nil {
			return err
		}
		in.stall.Reset(in.relay.patience)
		n, err := in.response.Body.Read(space)
		in.stall.Stop()
		in.relay.bytesRead(in.entry, n)
		switch {
		case !ok:
		case in.frames != nil:
			end, scanErr := in.initialEvents(space[:n])
			if scanErr != nil {
				return scanErr
			}
			if end > 0 {
				a.body.Commit(end)
				return nil
			}
		default:
			in.version(space[:n], contentType)
		}
		a.body.Commit(n)
		switch {
		case err == io.EOF && in.frames != nil:
			return fmt.Errorf("%w: the stream ended before its initial events did", errCutOff)
		case err == io.EOF:
			in.lastChance()
			return nil
		case err != nil:
			if in.ctx.Err() != nil {
				return context.Cause(in.ctx)
			}
			return fmt.Errorf("%w: %w", errCutOff, err)
		}
	}
}

// initialEvents looks for the end of the initial events among the bytes and returns where in them it is, 0 if not yet.
func (in *intake) initialEvents(p []byte) (end int, err error) {
	before := in.offset
	in.offset += int64(len(p))
	for f, err := range in.frames.Frames(p) {
		switch {
		case err != nil:
			return 0, fmt.Errorf("reading initial events: %w", err)
		case f.Type == frame.Error:
			return 0, fmt.Errorf("%w: the API server reported an error (%d) among the initial events", errCutOff, f.Code)
		case f.InitialEventsEnd:
			in.relay.learned(in.entry, in.batch, f.Version)
			return int(f.End - before), nil
		}
	}
	return 0, nil
}

// version looks for a LIST's version in its beginning, and publishes the header when it is found or cannot be.
func (in *intake) version(p []byte, contentType string) {
	if in.headed {
		if in.batch.Version() == 0 {
			in.tail = append(in.tail, p[max(0, len(p)-frame.TailBytes):]...)
			in.tail = append(in.tail[:0], in.tail[max(0, len(in.tail)-frame.TailBytes):]...)
		}
		return
	}
	in.begun = append(in.begun, p...)
	version, ok, more := frame.ListVersion(contentType, in.gzipped(), in.begun)
	if !ok && more {
		return
	}
	if ok {
		in.relay.learned(in.entry, in.batch, version)
	} else {
		in.tail = in.begun
	}
	in.begun = nil
	in.head()
}

// lastChance reads the version at the end of a LIST that has it there.
func (in *intake) lastChance() {
	if in.batch.Version() != 0 || in.frames != nil || in.gzipped() || in.response.StatusCode != http.StatusOK {
		return
	}
	if version, ok := frame.ListVersionTail(in.tail); ok {
		in.relay.learned(in.entry, in.batch, version)
	}
}

func (in *intake) gzipped() bool { return in.response.Header.Get("Content-Encoding") == "gzip" }

// head lets the readers begin.
func (in *intake) head() {
	if !in.headed {
		in.headed = true
		close(in.batch.Data.headed)
	}
}
