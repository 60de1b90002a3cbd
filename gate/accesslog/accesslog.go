// Package accesslog writes some of the requests that walk the gate's corridor as JSON lines: a sample of all, and what
// is always worth a line.
//
// It must never be what slows the gate down or gives something away: lines wait in a bounded queue for a disk that may be
// full or hang, what does not fit is dropped and counted, and a line holds no token, no body and no query value that is
// not known to be harmless.
package accesslog

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Bounds on what a disk may cost the gate: a line waiting in memory is about a kilobyte.
const (
	queueLength = 4096
	// chunk is how much goes to the disk at once, about.
	chunk = 64 << 10
	// lookAfter is how often the file's name is looked at, to notice that it was renamed.
	lookAfter = time.Second
	// closeTimeout bounds what the end of a configuration, or of the gate, waits for the disk.
	closeTimeout = 2 * time.Second
	// sayAgain is how often a disk that fails is in the process's log.
	sayAgain = time.Minute
)

// Options are what New needs.
type Options struct {
	// Config is defaulted and validated.
	Config v1alpha1.GateAccessLog
	// Stdout is where the lines go when the file is "-".
	Stdout  io.Writer
	Metrics *Metrics
	Log     *slog.Logger
}

// Log is the access log of one configuration. It is safe for concurrent use; nil is one that is off.
type Log struct {
	ratio              float64
	slow               time.Duration
	errors, rejections bool
	budget             *rate.Limiter
	random             func() float64

	out     output
	metrics *Metrics
	log     *slog.Logger
	lines   chan *Line
	reopen  chan struct{}
	done    chan struct{}

	mu     sync.RWMutex // held for reading while sending, for writing while closing
	closed bool
	said   time.Time // belongs to run
	torn   bool      // the last line stopped in the middle; belongs to run
}

// output is where lines go: a file that is opened again, or standard output.
type output interface {
	io.Writer
	// follow opens the file again when its name no longer leads to it, or when told to.
	follow(force bool) error
	io.Closer
}

// New opens the file and starts the goroutine that writes; Close ends it.
func New(o Options) (*Log, error) {
	var out output = stream{o.Stdout}
	if o.Config.File != v1alpha1.Stdout {
		f, err := openFile(o.Config.File)
		if err != nil {
			return nil, fmt.Errorf("opening the access log: %w", err)
		}
		out = f
	}
	l := &Log{
		ratio: *o.Config.SampleRatio, slow: o.Config.Always.SlowerThan.Duration,
		errors: o.Config.Always.Errors == v1alpha1.Enabled, rejections: o.Config.Always.Rejections == v1alpha1.Enabled,
		budget: rate.NewLimiter(rate.Limit(o.Config.MaxLinesPerSecond), o.Config.MaxLinesPerSecond),
		random: rand.Float64,
		out:    out, metrics: o.Metrics, log: o.Log,
		lines: make(chan *Line, queueLength), reopen: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go l.run()
	return l, nil
}

// Wants says whether a request that ended so has a line.
func (l *Log) Wants(o *Outcome) bool {
	switch {
	case o.RejectedBy != "":
		if l.rejections {
			return true
		}
	case o.Code >= http.StatusInternalServerError || o.Code == clientClosed || o.Code == 0:
		if l.errors {
			return true
		}
	}
	return !o.Stream && o.Took >= l.slow || l.ratio > 0 && l.random() < l.ratio
}

// clientClosed is how the gate records a request whose client left before the answer.
const clientClosed = 499

// Write queues a line, or drops it; it never waits.
func (l *Log) Write(line *Line) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		l.metrics.droppedQueue.Inc()
		return
	}
	if !l.budget.Allow() {
		l.metrics.droppedRate.Inc()
		return
	}
	select {
	case l.lines <- line:
	default:
		l.metrics.droppedQueue.Inc()
	}
}

// Reopen opens the file again, for a program that moved it and says so with SIGHUP. It may be called on nil.
func (l *Log) Reopen() {
	if l == nil {
		return
	}
	select {
	case l.reopen <- struct{}{}:
	default: // one is on its way
	}
}

// Close writes what is queued and closes the file, within a bounded time: a disk that hangs is left hanging, with the
// goroutine that waits for it. It may be called on nil.
func (l *Log) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	select {
	case <-l.done:
	case <-ctx.Done():
		l.log.Error("Leaving access log lines unwritten: the disk does not answer", "lines", len(l.lines))
	}
}

func (l *Log) run() {
	defer close(l.done)
	buffer := make([]byte, 0, chunk+chunk/4)
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	for {
		select {
		case line, open := <-l.lines:
			if !open {
				if err := l.out.Close(); err != nil {
					l.say(err)
				}
				return
			}
			buffer = l.write(buffer, line)
		case <-l.reopen:
			l.follow(true)
		case <-look.C:
			l.follow(false)
		}
	}
}

func (l *Log) follow(force bool) {
	if err := l.out.follow(force); err != nil {
		l.say(err) // the file that is open is still written
	}
}

// write puts a line, and what else waits by now, into the file. Whole lines go in one call, so that the lines of two
// logs on one file (a reload) do not mix.
func (l *Log) write(buffer []byte, line *Line) []byte {
	buffer = buffer[:0]
	if l.torn {
		buffer = append(buffer, '\n') // ends the half line of before
	}
	count := 0
	for more := true; more; {
		data, err := json.Marshal(line)
		if err != nil {
			panic("BUG: encoding an access log line: " + err.Error())
		}
		buffer = append(append(buffer, data...), '\n')
		count++
		if len(buffer) >= chunk {
			break
		}
		select {
		case line, more = <-l.lines: // a closed queue is seen again by run
		default:
			more = false
		}
	}
	n, err := l.out.Write(buffer)
	if err != nil {
		l.torn = n > 0 && buffer[n-1] != '\n' || n == 0 && l.torn
		l.metrics.droppedWrite.Add(float64(count))
		l.say(err)
		return buffer
	}
	l.torn = false
	l.metrics.lines.Add(float64(count))
	return buffer
}

func (l *Log) say(err error) {
	if now := time.Now(); now.Sub(l.said) > sayAgain {
		l.said = now
		l.log.Warn("The access log is not complete", "reason", err)
	}
}
