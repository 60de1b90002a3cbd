// Package statefile keeps small state (emergency rules, issuer keys, pinned revisions) over a restart. What Seakeep
// needs in an outage must be readable after a power cut, a full disk or a flipped bit, so a file is written whole to
// a temporary name in the same folder, fsynced, renamed and the folder fsynced; it says its version and checksum; and
// the two generations before it are kept, so that a bad one costs the latest change and not everything.
// What grows by a line at a time, and need not outlive the machine's power, is Lines.
package statefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// generations is how many versions of a file are kept: name, name.1 and name.2. Two old ones, because the fault that
// spoils the newest (a full disk, a bad write) may have spoilt the one before it in the same minute.
const generations = 3

// maxSize bounds what Load reads, so that a wrong file in the folder cannot take the process's memory.
const maxSize = 64 << 20

// ErrNone says that there is no state: a first start, not a fault.
var ErrNone = errors.New("no state saved yet")

// Meta says where loaded state came from.
type Meta struct {
	// Generation is 0 for the newest file, 1 and 2 for the ones before it.
	Generation int
	// SchemaVersion is the version the state was saved with, ≤ the one given to New.
	SchemaVersion int
	// Saved is the wall clock when it was saved.
	Saved time.Time
	// Refused says, newest first, which newer generations were bad and why. Not empty means that older state is in
	// use: say so to the operator.
	Refused []error
}

// File is one piece of state. Its methods must not be called concurrently.
type File struct {
	path    string
	version int
	// limit bounds what is read, in bytes.
	limit int64
	// write replaces path with what fill writes, durably, and calls ready when it is on disk and about to take path's
	// place. Tests put failing disks here.
	write func(path string, fill func(*os.File) error, ready func() error) error
	now   func() time.Time
	swept bool // what an earlier process left half-written is removed
}

// New returns the state file dir/name. schemaVersion ≥ 1 is the version of what will be saved; Load refuses newer
// ones (a downgrade must not guess) and hands older ones over with their version in Meta. Nothing is read or written.
func New(dir, name string, schemaVersion int) *File {
	return &File{path: filepath.Join(dir, name), version: schemaVersion, limit: maxSize, write: writeDurably, now: time.Now}
}

// Path is where the newest generation lies.
func (f *File) Path() string { return f.path }

// Save writes v as JSON, and returns once it is on disk. On an error the newest good generation is untouched: what
// was saved before is what Load will return.
func (f *File) Save(v any) error {
	data, err := encode(f.version, f.now(), v)
	if err != nil {
		return fmt.Errorf("encoding state for %s: %w", f.path, err)
	}
	fill := func(file *os.File) error {
		_, err := file.Write(data)
		return err
	}
	f.sweep()
	// Rotating only then: a disk that stays full must not push the good generations out, one try after another.
	if err := f.write(f.path, fill, f.rotate); err != nil {
		return fmt.Errorf("writing state %s: %w", f.path, err)
	}
	return nil
}

// sweep removes temporary files, once. Only who saves may do it, because a reader would take them from under the writer.
func (f *File) sweep() {
	if !f.swept {
		f.swept = true
		sweep(f.path)
	}
}

// sweep removes the temporary files of processes that were killed over writing a file anew: they would pile up.
func sweep(path string) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return // writing will say what is wrong
	}
	for _, e := range entries {
		// renameio's names: a dot, the name, a number.
		number, ok := strings.CutPrefix(e.Name(), "."+base)
		if _, err := strconv.ParseUint(number, 10, 64); ok && err == nil && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(dir, e.Name())) // it takes room, nothing else
		}
	}
}

// Load fills v with the newest generation that is whole. It returns ErrNone when nothing was ever saved, and an
// error naming every generation when all are bad; v is then unspecified.
func (f *File) Load(v any) (Meta, error) {
	var refused []error
	for generation := range generations {
		path := f.generation(generation)
		header, payload, err := read(path, f.limit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && header.version > f.version {
			err = fmt.Errorf("schema version %d is newer than this program's %d", header.version, f.version)
		}
		if err == nil {
			err = json.Unmarshal(payload, v)
		}
		if err != nil {
			refused = append(refused, fmt.Errorf("reading state %s: %w", path, err))
			continue
		}
		return Meta{Generation: generation, SchemaVersion: header.version, Saved: header.saved, Refused: refused}, nil
	}
	if len(refused) == 0 {
		return Meta{}, ErrNone
	}
	return Meta{Refused: refused}, fmt.Errorf("no generation is readable: %w", errors.Join(refused...))
}

func (f *File) generation(n int) string {
	if n == 0 {
		return f.path
	}
	return f.path + "." + strconv.Itoa(n)
}

// rotate keeps the newest generation as .1 and .1 as .2, by hard links and renames: at no moment is the newest
// missing. A generation that is bad is not kept: it must not push a good one out.
func (f *File) rotate() error {
	if err := verify(f.path, f.limit); err != nil {
		return nil // absent or bad: nothing worth keeping, Save replaces it
	}
	if f.rotated() {
		return nil
	}
	if err := verify(f.generation(1), f.limit); err == nil {
		if err := os.Rename(f.generation(1), f.generation(2)); err != nil {
			return fmt.Errorf("keeping the older state: %w", err)
		}
	} else if err := os.Remove(f.generation(1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing bad state: %w", err)
	}
	if err := os.Link(f.path, f.generation(1)); err != nil {
		return fmt.Errorf("keeping the older state: %w", err)
	}
	return nil
}

// rotated is true when an earlier Save rotated and then failed: the newest and .1 are the same file.
func (f *File) rotated() bool {
	newest, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	before, err := os.Stat(f.generation(1))
	return err == nil && os.SameFile(newest, before)
}

func read(path string, limit int64) (header, []byte, error) {
	file, size, err := open(path, limit)
	if err != nil {
		return header{}, nil, err
	}
	defer file.Close()
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return header{}, nil, err
	}
	return decode(data)
}

// writeDurably returns when what fill wrote is at path and would be there after a power cut.
func writeDurably(path string, fill func(*os.File) error, ready func() error) error {
	dir := filepath.Dir(path)
	// The temporary file must lie in the same folder: a rename is atomic within one file system only.
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer pending.Cleanup()
	if err := fill(pending.File); err != nil {
		return err
	}
	if err := pending.Sync(); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return err
	}
	return d.Close()
}

// clip shortens foreign bytes for an error message.
func clip(b []byte) string {
	const most = 60
	if len(b) > most {
		return strings.ToValidUTF8(string(b[:most]), "?") + "…"
	}
	return strings.ToValidUTF8(string(b), "?")
}
