// Package auditlog is a local, append-only record of what people and emergency actions did, written so that it can be
// believed afterwards: JSON lines, each carrying the hash of the one before it, on disk before the action it records
// is acknowledged. It needs nothing but a folder, because it must work when nothing else does.
//
// The chain shows that a line was changed, removed or inserted; it cannot show that the end was cut off by somebody
// who may write the file, unless the last hash is known from elsewhere (Summary.LastHash is for that). Events must not
// contain tokens or request bodies: what is written here is kept and copied.
package auditlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLine bounds one line, and so the memory Verify takes.
const maxLine = 1 << 20

// Options are what Open needs besides the path; the zero value is good.
type Options struct {
	// Clock stamps the lines; default time.Now.
	Clock func() time.Time
	// Log hears of a torn line that was set aside.
	Log *slog.Logger
}

// Log is an open audit log. It is safe for concurrent use; one process may have a file open at a time.
type Log struct {
	path  string
	clock func() time.Time

	mu     sync.Mutex
	file   file
	seq    uint64
	prev   string
	size   int64 // length of the good part: what is beyond it was never acknowledged
	broken error // why no further line can be appended
}

// file is what a Log does to its *os.File; tests put failing disks here.
type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

// recovered is the event that says an earlier line was torn.
type recovered struct {
	Event string `json:"event"`
	// Bytes is the length of the torn line, MovedTo where it was kept.
	Bytes   int    `json:"bytes"`
	MovedTo string `json:"movedTo"`
}

// Open opens or creates the log at path (mode 0600) and checks its whole chain. A last line without its end, as
// kill -9 or a power cut leaves it, is moved to path.torn-<seq> and a line saying so is appended; a break anywhere
// else is an error, because appending would bury it. The event of a torn line was never acknowledged.
func Open(path string, opts Options) (*Log, error) {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	l, err := open(f, path, opts)
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func open(f *os.File, path string, opts Options) (*Log, error) {
	// Two writers would fork the chain. The lock ends with the process, however it ends.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("locking the audit log %s: another process has it open: %w", path, err)
	}
	summary, err := verify(f)
	if err != nil {
		return nil, fmt.Errorf("checking the audit log %s: %w; move it aside to start a new one", path, err)
	}
	l := &Log{path: path, clock: opts.Clock, file: f, seq: summary.Lines, prev: summary.LastHash, size: summary.size}
	if len(summary.torn) > 0 {
		if err := l.setAside(summary.torn, opts.Log); err != nil {
			return nil, err
		}
	}
	// The folder's entry for a new file must survive a power cut as well.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	return l, nil
}

func (l *Log) setAside(torn []byte, log *slog.Logger) error {
	aside := fmt.Sprintf("%s.torn-%d", l.path, l.seq+1)
	if err := os.WriteFile(aside, torn, 0o600); err != nil {
		return fmt.Errorf("setting a torn audit line aside: %w", err)
	}
	if err := l.file.Truncate(l.size); err != nil {
		return fmt.Errorf("removing a torn audit line: %w", err)
	}
	log.Warn("The last audit line was torn and is set aside; its event was never acknowledged",
		"path", l.path, "movedTo", aside, "bytes", len(torn))
	return l.Append(recovered{Event: "tornLineSetAside", Bytes: len(torn), MovedTo: filepath.Base(aside)})
}

// Append writes event, any value that encodes to JSON, and returns once it is on disk. After an error the log holds
// no part of the line.
func (l *Log) Append(event any) error {
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding an audit event: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fmt.Errorf("appending to the audit log: %w", fs.ErrClosed)
	}
	if l.broken != nil {
		return fmt.Errorf("appending to the audit log: an earlier failure could not be undone: %w", l.broken)
	}
	line, hash, err := encodeLine(l.seq+1, l.clock(), l.prev, body)
	if err != nil {
		return err
	}
	if err := l.write(line); err != nil {
		return fmt.Errorf("appending to the audit log %s: %w", l.path, err)
	}
	l.seq, l.prev, l.size = l.seq+1, hash, l.size+int64(len(line))
	return nil
}

// write puts the whole line on disk or takes back what got there: half a line in the middle of the file would look
// like tampering for ever.
func (l *Log) write(line []byte) error {
	_, err := l.file.Write(line)
	if err == nil {
		err = l.file.Sync()
	}
	if err == nil {
		return nil
	}
	if undo := l.file.Truncate(l.size); undo != nil {
		l.broken = errors.Join(err, undo)
	}
	return err
}

// Close closes the file. Every appended line is on disk already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// Path is where the log lies.
func (l *Log) Path() string { return l.path }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// compact returns the canonical bytes of an event: what the hash covers and what the line contains.
func compact(body []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, body); err != nil {
		return nil, fmt.Errorf("encoding an audit event: %w", err)
	}
	return b.Bytes(), nil
}
