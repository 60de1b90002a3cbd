package snapshot

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/internal/statefile"
)

// Names in the state folder.
const (
	dataName      = "dns-snapshot"
	confirmedName = "dns-confirmed"
	lockName      = "dns-snapshot.lock"
)

// DefaultMaxBytes bounds a snapshot: fifty times what 100,000 endpoints take.
const DefaultMaxBytes = 512 << 20

// ErrNone says that there is no snapshot: a first start, not a fault.
var ErrNone = statefile.ErrNone

// ErrLocked says that another process writes to the folder.
var ErrLocked = errors.New("another process writes snapshots to this folder")

// Options are what a File needs.
type Options struct {
	// Dir is the state folder; it is made, for its owner alone, if it is not there. It must not be a folder that
	// others may write to: who can replace a snapshot answers for the cluster.
	Dir string
	// Key, if not empty, signs what is saved, and is required of what is loaded.
	Key []byte
	// Authorities are written into what is saved, and checked of what is loaded; see Meta.Authorities.
	Authorities []string
	// MaxBytes bounds what is read and written; 0 is DefaultMaxBytes.
	MaxBytes int64
}

// File is the snapshot of one folder. Its methods must not be called concurrently, except that Load and Save of
// different Files on one folder may: only one of them gets to write.
type File struct {
	dir       string
	key       []byte
	authority []string
	maxBytes  int64
	data      *statefile.File
	confirmed *statefile.File
	lock      *os.File
}

// confirmation is the sidecar: what has become of the snapshot of this generation since it was written.
type confirmation struct {
	Generation uint64                 `json:"generation"`
	Confirmed  time.Time              `json:"lastConfirmed"`
	Versions   map[string]string      `json:"versions"`
	Modified   [store.ZoneCount]int64 `json:"dataChanged"`
}

// Loaded says what was loaded.
type Loaded struct {
	Meta
	// Saved is when the file was written.
	Saved time.Time
	// Refused says which newer files were bad and why. Not empty means that older data is in use: say so.
	Refused []error
}

// Open returns the snapshot of a folder. Nothing is read yet.
func Open(o Options) (*File, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	info, err := os.Stat(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("looking at the state folder: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 && len(o.Key) == 0 {
		return nil, fmt.Errorf("state folder %s has mode %#o: whoever writes there answers for the cluster; make it 0700, or configure a key", o.Dir, mode)
	}
	f := &File{
		dir: o.Dir, key: o.Key, authority: o.Authorities, maxBytes: o.MaxBytes,
		data:      statefile.New(o.Dir, dataName, SchemaVersion),
		confirmed: statefile.New(o.Dir, confirmedName, 1),
	}
	f.data.SetLimit(o.MaxBytes)
	f.confirmed.SetLimit(maxMeta)
	return f, nil
}

// Path is where the newest snapshot lies.
func (f *File) Path() string { return f.data.Path() }

// Load reads the newest snapshot that is whole, of the cluster if that is not empty, and signed if there is a key.
// For each one tried it calls begin, and then what begin returned for each object: what was handed over before a Load
// failed, or before the next begin, is to be thrown away. It returns ErrNone when nothing was ever saved.
func (f *File) Load(cluster string, begin func() func(store.Object) error) (Loaded, error) {
	var meta Meta
	from, err := f.data.LoadStream(func(_ int, body io.Reader) error {
		var err error
		meta, err = Decode(body, DecodeOptions{Cluster: cluster, Authorities: f.authority, Key: f.key, MaxBytes: f.maxBytes}, begin())
		return err
	})
	if err != nil {
		return Loaded{Refused: from.Refused}, err
	}
	loaded := Loaded{Meta: meta, Saved: from.Saved, Refused: from.Refused}
	f.update(&loaded)
	return loaded, nil
}

// update adds what the sidecar knows. It is a bonus: a bad sidecar costs a minute of age and a longer catch-up.
func (f *File) update(l *Loaded) {
	var c confirmation
	if _, err := f.confirmed.Load(&c); err != nil || c.Generation != l.Generation || !c.Confirmed.After(l.Confirmed) {
		return
	}
	l.Confirmed = c.Confirmed
	for name, k := range l.Kinds {
		if v := c.Versions[name]; v != "" {
			k.Version = v
			l.Kinds[name] = k
		}
	}
	for zone, unix := range c.Modified {
		l.Modified[zone] = max(l.Modified[zone], unix)
	}
}

// Save writes a snapshot, durably. meta.Generation must be larger than of any before; see Encode for the rest. On an
// error what was saved before is still there.
func (f *File) Save(meta Meta, objects iter.Seq[store.Object]) error {
	if err := f.takeLock(); err != nil {
		return err
	}
	meta.Authorities = f.authority
	return f.data.SaveStream(func(w io.Writer) error { return Encode(w, meta, objects, f.key) })
}

// Confirm notes that the data of the last snapshot saved is still what a source has, at these versions.
func (f *File) Confirm(meta Meta) error {
	if err := f.takeLock(); err != nil {
		return err
	}
	c := confirmation{Generation: meta.Generation, Confirmed: meta.Confirmed, Modified: meta.Modified, Versions: map[string]string{}}
	for name, k := range meta.Kinds {
		c.Versions[name] = k.Version
	}
	return f.confirmed.Save(c)
}

// takeLock keeps a second process from writing. It is taken at the first write and not at the start, because CoreDNS
// starts its new configuration before it stops the old one, and both must have their data.
func (f *File) takeLock() error {
	if f.lock != nil {
		return nil
	}
	lock, err := os.OpenFile(filepath.Join(f.dir, lockName), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("locking the state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrLocked
		}
		return fmt.Errorf("locking the state folder: %w", err)
	}
	f.lock = lock
	return nil
}

// Close lets another process write.
func (f *File) Close() error {
	if f.lock == nil {
		return nil
	}
	lock := f.lock
	f.lock = nil
	return lock.Close()
}
