package statefile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Streams are for state that is too large to hold twice, such as a cluster's DNS data: the body is any bytes, written
// and read in one pass, under the same header, checksum and generations.

// SetLimit bounds what is read and written, in bytes; 64 MiB if it is not called.
func (f *File) SetLimit(bytes int64) { f.limit = bytes }

// SaveStream is Save for a body that write writes. It is called twice and must write the same bytes: the header in
// front of them says how many there are.
func (f *File) SaveStream(write func(io.Writer) error) error {
	var length counter
	if err := write(&length); err != nil {
		return fmt.Errorf("encoding state for %s: %w", f.path, err)
	}
	covered := coveredHeader(f.version, f.now(), int64(length))
	const room = 64 // hex digits
	if total := int64(len(covered)+len(" sha256=\n")+room) + int64(length); total > f.limit {
		return fmt.Errorf("writing state %s: %d bytes are more than the limit of %d", f.path, total, f.limit)
	}
	fill := func(file *os.File) error {
		h := newChecksum(covered)
		out := bufio.NewWriterSize(file, 1<<16)
		fmt.Fprintf(out, "%s sha256=%0*d\n", covered, room, 0)
		var again counter
		if err := write(io.MultiWriter(out, h, &again)); err != nil {
			return err
		}
		if again != length {
			return fmt.Errorf("BUG: the body was written twice and differs: %d and %d bytes", length, again)
		}
		if err := out.Flush(); err != nil {
			return err
		}
		_, err := file.WriteAt([]byte(hex.EncodeToString(h.Sum(nil))), int64(len(covered)+len(" sha256=")))
		return err
	}
	f.sweep()
	if err := f.write(f.path, fill, f.rotate); err != nil {
		return fmt.Errorf("writing state %s: %w", f.path, err)
	}
	return nil
}

// LoadStream is Load for a body that read reads. It is called once for each generation, newest first, that is whole
// and of no newer version, until it returns nil; its error refuses the generation.
func (f *File) LoadStream(read func(version int, body io.Reader) error) (Meta, error) {
	var refused []error
	for generation := range generations {
		path := f.generation(generation)
		h, err := f.loadStream(path, read)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("reading state %s: %w", path, err))
			continue
		}
		return Meta{Generation: generation, SchemaVersion: h.version, Saved: h.saved, Refused: refused}, nil
	}
	if len(refused) == 0 {
		return Meta{}, ErrNone
	}
	return Meta{Refused: refused}, fmt.Errorf("no generation is readable: %w", errors.Join(refused...))
}

func (f *File) loadStream(path string, read func(int, io.Reader) error) (header, error) {
	file, size, err := open(path, f.limit)
	if err != nil {
		return header{}, err
	}
	defer file.Close()
	h, start, err := verifyStream(file, size)
	if err != nil {
		return header{}, err
	}
	if h.version > f.version {
		return header{}, fmt.Errorf("schema version %d is newer than this program's %d", h.version, f.version)
	}
	return h, read(h.version, io.NewSectionReader(file, start, h.size))
}

// verify says whether a file is whole, without holding it.
func verify(path string, limit int64) error {
	file, size, err := open(path, limit)
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, err = verifyStream(file, size)
	return err
}

// verifyStream reads the whole file and returns its header and where the body begins.
func verifyStream(file io.Reader, size int64) (header, int64, error) {
	in := bufio.NewReaderSize(file, 1<<16)
	line, err := in.ReadSlice('\n')
	if err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull) {
		return header{}, 0, err
	}
	start := int64(len(line))
	first, ended := bytes.CutSuffix(line, []byte{'\n'})
	h, err := decodeHeader(first)
	if err == nil && !ended {
		err = errNoLine
	}
	if err != nil {
		return header{}, 0, err
	}
	if size-start != h.size {
		return header{}, 0, tornError(size-start, h.size)
	}
	sum := newChecksum(h.covered)
	if _, err := io.Copy(sum, in); err != nil {
		return header{}, 0, err
	}
	if hex.EncodeToString(sum.Sum(nil)) != h.sum {
		return header{}, 0, errChecksum
	}
	return h, start, nil
}

// open opens a state file and says how long it is. A symbolic link is refused: whoever may put one into the folder
// would otherwise have another file read as state.
func open(path string, limit int64) (*os.File, int64, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, 0, errors.New("not a state file: it is a symbolic link")
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() > limit) {
		err = fmt.Errorf("not a state file: mode %v, %d bytes; at most %d are read", info.Mode(), info.Size(), limit)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func newChecksum(covered string) hash.Hash {
	h := sha256.New()
	io.WriteString(h, covered)
	h.Write([]byte{'\n'})
	return h
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
