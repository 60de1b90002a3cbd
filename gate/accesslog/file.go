package accesslog

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// stream is standard output: it belongs to the process and is never closed.
type stream struct{ io.Writer }

func (stream) follow(bool) error { return nil }

// Close implements io.Closer.
func (stream) Close() error { return nil }

// file is the access log's file. Its methods are for one goroutine.
type file struct {
	path string
	open *os.File
}

func openFile(path string) (*file, error) {
	f := &file{path: path}
	opened, err := f.create()
	if err != nil {
		return nil, err
	}
	f.open = opened
	return f, nil
}

// create opens the file for appending, with mode 0600: the lines say who works on what. A link or a pipe that somebody
// put in its place is not followed, and opening it does not hang.
func (f *file) create() (*os.File, error) {
	opened, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := opened.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s must be a plain file, is %v", f.path, info.Mode())
	case info.Mode().Perm() != 0o600:
		err = opened.Chmod(0o600)
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return opened, nil
}

// Write implements io.Writer.
func (f *file) Write(p []byte) (int, error) { return f.open.Write(p) }

func (f *file) follow(force bool) error {
	if !force && f.inPlace() {
		return nil
	}
	opened, err := f.create()
	if err != nil {
		return fmt.Errorf("opening the access log again: %w", err)
	}
	err = f.open.Close()
	f.open = opened
	return err
}

// inPlace is true while the name leads to the open file: logrotate renames it, or removes it.
func (f *file) inPlace() bool {
	named, err := os.Lstat(f.path)
	if err != nil {
		return false
	}
	open, err := f.open.Stat()
	return err == nil && os.SameFile(named, open)
}

// Close implements io.Closer.
func (f *file) Close() error { return f.open.Close() }
