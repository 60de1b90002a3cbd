package breakglass

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/internal/auditlog"
)

// Bounds on how long the audit may hold up an emergency.
const (
	// recordWait is how long a request waits to be on record. A disk that is full fails at once; one that hangs must
	// not hang the lane.
	recordWait = 250 * time.Millisecond
	// recordQueue is how many events wait for a slow disk.
	recordQueue = 1024
	// reopenAfter is how long a file that could not be written is left alone before it is opened again.
	reopenAfter = 5 * time.Second
	// closeWait bounds the last writing at the end of the process.
	closeWait = 2 * time.Second
)

var (
	errLate      = errors.New("the audit file takes longer than " + recordWait.String())
	errQueueFull = errors.New("too many audit events wait for the disk")
	errClosed    = errors.New("the audit is closed")
)

// chain is the audit file: auditlog.Log in production.
type chain interface {
	Append(event any) error
	Close() error
}

// recorder writes the audit file from one goroutine. The lane serves whether or not the file can be written, because
// it is the last way in: on a host whose disk is full, the engineer is there to empty it. What cannot be written goes
// to standard error, is counted, and is announced in every answer; when the file can be written again, a gap event
// says how many are missing.
type recorder struct {
	open    func() (chain, error)
	stderr  io.Writer // where events go that cannot be written
	log     *slog.Logger
	metrics *metrics

	queue   chan entry
	done    chan struct{}
	failing atomic.Bool
	lost    atomic.Uint64

	mu     sync.RWMutex // held for reading while sending, for writing while closing
	closed bool
}

type entry struct {
	event   record
	written chan<- error // of capacity 1, or nil
}

// newRecorder starts the writing goroutine; Close ends it.
func newRecorder(open func() (chain, error), stderr io.Writer, log *slog.Logger, m *metrics) *recorder {
	r := &recorder{
		open: open, stderr: stderr, log: log, metrics: m,
		queue: make(chan entry, recordQueue), done: make(chan struct{}),
	}
	go r.run()
	return r
}

// write puts an event on record and returns when it is, or when it is clear that it will not be in time; then the event
// is on standard error and may be in the file later as well.
func (r *recorder) write(event record) error {
	written := make(chan error, 1)
	if err := r.send(entry{event: event, written: written}); err != nil {
		return err
	}
	timer := time.NewTimer(recordWait)
	defer timer.Stop()
	select {
	case err := <-written:
		return err
	case <-timer.C:
		r.setFailing(errLate)
		r.spill(event, errLate)
		return errLate
	}
}

// note puts an event on record without waiting.
func (r *recorder) note(event record) {
	_ = r.send(entry{event: event}) // send has spilled and counted it
}

func (r *recorder) send(e entry) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		r.lose(e.event, errClosed)
		return errClosed
	}
	select {
	case r.queue <- e:
		return nil
	default:
		r.setFailing(errQueueFull)
		r.lose(e.event, errQueueFull)
		return errQueueFull
	}
}

// broken is true while events do not reach the file.
func (r *recorder) broken() bool { return r.failing.Load() }

// close writes what is queued and closes the file, in bounded time.
func (r *recorder) close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.queue)
	}
	r.mu.Unlock()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		r.log.Error("Leaving audit events unwritten: the disk does not answer", "events", len(r.queue))
	}
}

func (r *recorder) run() {
	defer close(r.done)
	var file chain
	var retry time.Time
	for e := range r.queue {
		err := error(nil)
		if file == nil {
			if time.Now().Before(retry) {
				err = errors.New("the audit file could not be written a moment ago")
			} else if file, err = r.open(); err != nil {
				file, retry = nil, time.Now().Add(reopenAfter)
			}
		}
		if err == nil {
			if err = r.append(file, e.event); err != nil {
				file.Close() // its error would only repeat the one at hand
				file, retry = nil, time.Now().Add(reopenAfter)
			}
		}
		if err != nil {
			r.setFailing(err)
			r.lose(e.event, err)
		} else if r.failing.CompareAndSwap(true, false) {
			r.metrics.auditFailing.Set(0)
			r.log.Info("The audit file can be written again")
		}
		if e.written != nil {
			e.written <- err
		}
	}
	if file != nil {
		if err := file.Close(); err != nil {
			r.log.Error("Closing the audit file went wrong", "reason", err)
		}
	}
}

// append writes the event, and before it the gap, if there is one.
func (r *recorder) append(file chain, event record) error {
	if lost := r.lost.Load(); lost > 0 {
		if err := file.Append(record{Event: eventGap, Lost: lost, Reason: "the audit file could not be written; the events are on standard error"}); err != nil {
			return err
		}
		r.lost.Add(-lost)
	}
	return file.Append(event)
}

func (r *recorder) setFailing(err error) {
	if r.failing.CompareAndSwap(false, true) {
		r.metrics.auditFailing.Set(1)
		r.log.Error("Serving without a complete audit file: events go to standard error", "reason", err)
	}
}

// lose counts an event that is not in the file and keeps it on standard error.
func (r *recorder) lose(event record, err error) {
	r.lost.Add(1)
	r.metrics.auditLost.Inc()
	r.spill(event, err)
}

func (r *recorder) spill(event record, reason error) {
	line, err := json.Marshal(struct {
		At     time.Time `json:"at"`
		Audit  record    `json:"audit"`
		Reason string    `json:"unwritten"`
	}{time.Now().UTC(), event, reason.Error()})
	if err != nil {
		panic("BUG: encoding an audit event: " + err.Error())
	}
	// One write a line, so that lines of several goroutines stay whole. Nothing is left to tell if this fails.
	_, _ = r.stderr.Write(append(line, '\n'))
}

// openChain opens the audit file. One that does not verify is moved aside, as it is, and a new one begins by saying so:
// refusing to serve would let whoever damages the file lock the engineers out.
func openChain(path string, log *slog.Logger) (chain, error) {
	// What is not a plain file (a device, a pipe) holds no chain, and must not be moved.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening the audit file %s: it is no regular file", path)
	}
	file, err := auditlog.Open(path, auditlog.Options{Log: log})
	var broken *auditlog.BreakError
	if err == nil {
		return file, nil
	}
	if !errors.As(err, &broken) {
		return nil, err
	}
	aside := fmt.Sprintf("%s.broken-%s", path, time.Now().UTC().Format("20060102T150405Z"))
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("setting a broken audit file aside: %w", err)
	}
	log.Error("The audit file does not verify and was set aside", "movedTo", aside, "reason", broken)
	if file, err = auditlog.Open(path, auditlog.Options{Log: log}); err != nil {
		return nil, err
	}
	if err := file.Append(record{Event: eventBroken, Path: aside, Reason: broken.Error()}); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
