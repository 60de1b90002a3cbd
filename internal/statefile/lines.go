package statefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// Lines is a file that grows by a line at a time, for the process that follows when this one is killed. It is not synced: what the
// machine loses with its power are the last lines. A line that was torn, by a death or by a full disk, is cut off before the next is
// added; whole lines that another process has added stay until the file is written anew. Its methods may be called from several
// goroutines.
type Lines struct {
	path string
	mode os.FileMode
	most int
	// write is the file's own; tests put failing disks there.
	write func(*os.File, []byte) (int, error)

	mu sync.Mutex
	// size is how many bytes of the file are whole lines, and count how many those are. What follows is torn.
	size  int64
	count int
	// behind is true when the file lacks something that is in memory.
	behind bool
	// failed is why nothing could be written last, nil when it could; until again it is not tried another time.
	failed error
	again  time.Time
}

// linesPatience is how long after a failure it is tried again: what was missed meanwhile is written then, and all of it is much.
const linesPatience = 10 * time.Second

// OpenLines reads what an earlier process has left in the file, if there is one, by read, which must come to the end; a last line
// that is torn is its to pass over. mode is that of a file which is made. When the file has more than most lines, it is written
// anew by the next Add; 0 is any number.
func OpenLines(path string, mode os.FileMode, most int, read func(io.Reader) error) (*Lines, error) {
	l := &Lines{path: path, mode: mode, most: most, write: (*os.File).Write}
	info, err := os.Lstat(path) // a link would become a file when all is written anew
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it must be a file, not a link and not a folder")
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	defer f.Close()
	if err := read(&wholeLines{of: f, l: l}); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return l, nil
}

// wholeLines counts what is read of a file.
type wholeLines struct {
	of   io.Reader
	l    *Lines
	read int64
}

func (w *wholeLines) Read(p []byte) (int, error) {
	n, err := w.of.Read(p)
	if last := bytes.LastIndexByte(p[:n], '\n'); last >= 0 {
		w.l.size = w.read + int64(last) + 1
		w.l.count += bytes.Count(p[:n], []byte{'\n'})
	}
	w.read += int64(n)
	return n, err
}

// Trouble is why the file lacks something, nil when it has all.
func (l *Lines) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// Rewrite has the next Add write the file anew.
func (l *Lines) Rewrite() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind = true
}

// Add appends a line, which ends with its line feed, or writes all of them anew, this one included, when the file lacks some, has
// too many, or was cut or taken away by somebody else. It returns whether this is the first failure of a row, or the first success
// after one; Trouble says which. After a failure nothing is tried for ten seconds.
func (l *Lines) Add(now time.Time, line []byte, all func() ([][]byte, error)) (turned bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.failed
	switch {
	case was != nil && now.Before(l.again):
		return false
	case l.behind || l.most > 0 && l.count >= l.most:
		l.failed = l.anew(all)
	default:
		if l.failed = l.append(line); errors.Is(l.failed, errLinesChanged) {
			l.failed = l.anew(all)
		}
	}
	if l.failed != nil {
		l.behind, l.again = true, now.Add(linesPatience)
	}
	return (was == nil) != (l.failed == nil)
}

var errLinesChanged = errors.New("it was taken away or cut by somebody else")

// append adds one line in one write. What a write that failed has left is cut off, so that the file stays lines.
func (l *Lines) append(line []byte) error {
	flags := os.O_RDWR | os.O_APPEND
	if l.size == 0 {
		flags |= os.O_CREATE
		if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(l.path, flags, l.mode)
	if errors.Is(err, fs.ErrNotExist) {
		return errLinesChanged
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() < l.size:
		return errLinesChanged
	case info.Size() > l.size: // torn, by this process or the one before, or another's
		rest := &wholeLines{of: io.NewSectionReader(f, l.size, info.Size()-l.size), l: l, read: l.size}
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return err
		}
		if err := f.Truncate(l.size); err != nil {
			return err
		}
	}
	if _, err := l.write(f, line); err != nil {
		return errors.Join(err, f.Truncate(l.size))
	}
	if err := f.Close(); err != nil { // some file systems say only now that they are full
		return err
	}
	l.size += int64(len(line))
	l.count++
	return nil
}

// anew replaces the file as a whole.
func (l *Lines) anew(all func() ([][]byte, error)) error {
	lines, err := all()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	sweep(l.path)
	f, err := renameio.NewPendingFile(l.path, renameio.WithPermissions(l.mode), renameio.WithTempDir(filepath.Dir(l.path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	size := int64(0)
	packed := bufio.NewWriterSize(linesWriter{l, f.File}, 1<<20)
	for _, line := range lines {
		if _, err := packed.Write(line); err != nil {
			return err
		}
		size += int64(len(line))
	}
	if err := packed.Flush(); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	l.size, l.count, l.behind = size, len(lines), false
	return nil
}

// linesWriter writes as Lines does.
type linesWriter struct {
	l *Lines
	f *os.File
}

func (w linesWriter) Write(p []byte) (int, error) { return w.l.write(w.f, p) }
