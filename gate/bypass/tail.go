package bypass

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Tail is what is written to a log from now on. It keeps the file open, so that what was written before a rotation is read
// too; a log rotated twice meanwhile has lost its middle, and the numbers of events say so.
type Tail struct {
	path string
	file *os.File
	at   int64
}

// OpenTail begins at the end of the file.
func OpenTail(path string) (*Tail, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading an audit log: %w", err)
	}
	at, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading audit log %s: %w", path, err), file.Close())
	}
	return &Tail{path: path, file: file, at: at}, nil
}

// Read gives use everything written since: of the file that was open, and of the one that has its name now if that is
// another. It may be called again, and then begins at the same place.
func (t *Tail) Read(use func(io.Reader) error) error {
	info, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("reading audit log %s: %w", t.path, err)
	}
	from := t.at
	if info.Size() < from {
		from = 0 // truncated in place (logrotate's copytruncate)
	}
	if err := use(io.NewSectionReader(t.file, from, info.Size()-from)); err != nil {
		return err
	}
	next, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // between the two steps of a rotation
	}
	if err != nil {
		return fmt.Errorf("reading an audit log: %w", err)
	}
	defer next.Close()
	now, err := next.Stat()
	if err != nil {
		return fmt.Errorf("reading audit log %s: %w", t.path, err)
	}
	if os.SameFile(info, now) {
		return nil
	}
	return use(next)
}

// Close lets go of the file.
func (t *Tail) Close() error { return t.file.Close() }
