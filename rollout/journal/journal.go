// Package journal keeps a rollout over the death of the process that runs it: the copy of the plan, the revisions that were
// pinned, how far each cluster is, and every intent before the write it announces. It is one bbolt file; bbolt's lock lets one
// process at a time have it. What other shells ask and are told goes by files beside it.
package journal

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/seakeep/seakeep/rollout/plan"
)

// version of what is written; another one is refused.
const version = "1"

// fileName is the journal's, in the state folder.
const fileName = "rollouts.db"

// ErrBusy says that another process has the journal.
var ErrBusy = errors.New("another process runs a rollout with this state folder")

// ErrNoRun says that there is no such run.
var ErrNoRun = errors.New("there is no such run")

// Buckets. Below runs there is one bucket a run, with these below it.
var (
	bucketRuns    = []byte("runs")
	bucketMeta    = []byte("meta")
	bucketOrders  = []byte("orders")
	bucketLegs    = []byte("legs")
	bucketCluster = []byte("clusters")
	bucketTasks   = []byte("tasks")
	bucketIntents = []byte("intents")
	bucketEvents  = []byte("events")

	keyVersion = []byte("version")
	keyRun     = []byte("run")
	keyPlan    = []byte("plan")
)

// maxEvents is how many events of a run are kept, the newest.
const maxEvents = 10_000

// Journal is the open file. Its methods may be called from several goroutines; each that writes has written, to the disk, when
// it returns without an error.
type Journal struct {
	db  *bbolt.DB
	dir string
}

// Open opens the journal of a state folder, and makes both if they are not there.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state folder: %w", err)
	}
	path := filepath.Join(dir, fileName)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening %s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	j := &Journal{db: db, dir: dir}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if found := meta.Get(keyVersion); found != nil && string(found) != version {
			return fmt.Errorf("it has version %q, this program knows %q: use the program that wrote it, or another folder", found, version)
		}
		if err := meta.Put(keyVersion, []byte(version)); err != nil {
			return err
		}
		_, err = tx.CreateBucketIfNotExists(bucketRuns)
		return err
	})
	if err != nil {
		_ = db.Close() // the first error says more
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return j, nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

// Dir is the state folder.
func (j *Journal) Dir() string { return j.dir }

// keptRuns is how many runs of a rollout are kept that are over, the newest.
const keptRuns = 5

// SamplesFile is where a run keeps what its steps cost, ReadingsFile where it keeps what was measured. Both go with the run.
func SamplesFile(dir, run string) string { return filepath.Join(dir, "forecast-"+run+".jsonl") }

// ReadingsFile is described at SamplesFile.
func ReadingsFile(dir, run string) string { return filepath.Join(dir, "readings-"+run+".jsonl") }

// Create begins a run: all of it is there after, or nothing. It forgets runs of the same rollout that have long been over.
func (j *Journal) Create(run Run, p *plan.Plan, orders map[string][]string) error {
	runs, err := j.Runs()
	if err != nil {
		return err
	}
	old := slices.DeleteFunc(runs, func(r Run) bool { return !r.Phase.Over() || r.Rollout.Name != run.Rollout.Name })
	old = old[:max(0, len(old)-keptRuns)]
	err = j.db.Update(func(tx *bbolt.Tx) error {
		for _, r := range old {
			if err := tx.Bucket(bucketRuns).DeleteBucket([]byte(r.ID)); err != nil {
				return fmt.Errorf("forgetting run %s: %w", r.ID, err)
			}
		}
		b, err := tx.Bucket(bucketRuns).CreateBucket([]byte(run.ID))
		if err != nil {
			return fmt.Errorf("beginning run %s: %w", run.ID, err)
		}
		for _, name := range [][]byte{bucketOrders, bucketLegs, bucketCluster, bucketTasks, bucketIntents, bucketEvents} {
			if _, err := b.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := put(b, keyRun, run); err != nil {
			return err
		}
		if err := put(b, keyPlan, p); err != nil {
			return err
		}
		for cluster, order := range orders {
			if err := put(b.Bucket(bucketOrders), []byte(cluster), order); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range old {
		for _, file := range []string{viewFile(j.dir, r.ID), SamplesFile(j.dir, r.ID), ReadingsFile(j.dir, r.ID)} {
			_ = os.Remove(file) // nobody reads it any more
		}
	}
	return nil
}

// Runs returns all runs, the newest last.
func (j *Journal) Runs() ([]Run, error) {
	var runs []Run
	err := j.db.View(func(tx *bbolt.Tx) error {
		root := tx.Bucket(bucketRuns)
		return root.ForEachBucket(func(id []byte) error {
			var r Run
			if err := get(root.Bucket(id), keyRun, &r); err != nil {
				return fmt.Errorf("reading run %s: %w", id, err)
			}
			runs = append(runs, r)
			return nil
		})
	})
	slices.SortStableFunc(runs, func(a, b Run) int { return a.Started.Compare(b.Started) })
	return runs, err
}

// State is a run as it stands.
type State struct {
	Run      Run
	Plan     *plan.Plan
	Orders   map[string][]string
	Legs     map[LegKey]Leg
	Clusters map[string]Cluster
	Tasks    map[TaskKey]Task
	// Intents are those without an outcome: whether their writes were made is not known.
	Intents []Intent
}

// Load reads a run.
func (j *Journal) Load(id string) (*State, error) {
	s := &State{Plan: new(plan.Plan), Orders: map[string][]string{}, Legs: map[LegKey]Leg{}, Clusters: map[string]Cluster{}, Tasks: map[TaskKey]Task{}}
	err := j.view(id, func(b *bbolt.Bucket) error {
		if err := get(b, keyRun, &s.Run); err != nil {
			return err
		}
		if err := get(b, keyPlan, s.Plan); err != nil {
			return err
		}
		if err := each(b.Bucket(bucketOrders), func(key []byte, order []string) { s.Orders[string(key)] = order }); err != nil {
			return err
		}
		if err := each(b.Bucket(bucketLegs), func(_ []byte, l Leg) { s.Legs[l.Key()] = l }); err != nil {
			return err
		}
		if err := each(b.Bucket(bucketCluster), func(key []byte, c Cluster) { s.Clusters[string(key)] = c }); err != nil {
			return err
		}
		if err := each(b.Bucket(bucketTasks), func(_ []byte, t Task) { s.Tasks[t.Key()] = t }); err != nil {
			return err
		}
		return each(b.Bucket(bucketIntents), func(key []byte, i Intent) {
			i.ID = binary.BigEndian.Uint64(key)
			s.Intents = append(s.Intents, i)
		})
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// PutRun replaces the run's record, as PutLeg, PutCluster and PutTask do theirs.
func (j *Journal) PutRun(r Run) error {
	return j.update(r.ID, func(b *bbolt.Bucket) error { return put(b, keyRun, r) })
}

// PutLeg replaces a leg.
func (j *Journal) PutLeg(run string, l Leg) error {
	return j.update(run, func(b *bbolt.Bucket) error { return put(b.Bucket(bucketLegs), []byte(l.Stage+"/"+l.Cluster), l) })
}

// PutCluster replaces a cluster.
func (j *Journal) PutCluster(run string, c Cluster) error {
	return j.update(run, func(b *bbolt.Bucket) error { return put(b.Bucket(bucketCluster), []byte(c.Name), c) })
}

// PutTask replaces a task.
func (j *Journal) PutTask(run string, t Task) error {
	return j.update(run, func(b *bbolt.Bucket) error { return put(b.Bucket(bucketTasks), []byte(t.Key().String()), t) })
}

// Intend writes down what is about to be written to a cluster, and returns the intent's id. It must be called, and have
// returned, before.
func (j *Journal) Intend(run string, i Intent) (id uint64, err error) {
	err = j.update(run, func(b *bbolt.Bucket) error {
		intents := b.Bucket(bucketIntents)
		if id, err = intents.NextSequence(); err != nil {
			return err
		}
		return put(intents, key(id), i)
	})
	return id, err
}

// Settle forgets an intent whose outcome is known: the writes were answered.
func (j *Journal) Settle(run string, id uint64) error {
	return j.update(run, func(b *bbolt.Bucket) error { return b.Bucket(bucketIntents).Delete(key(id)) })
}

// Tell writes an event down.
func (j *Journal) Tell(run string, e Event) error {
	return j.update(run, func(b *bbolt.Bucket) error {
		events := b.Bucket(bucketEvents)
		id, err := events.NextSequence()
		if err != nil {
			return err
		}
		if id > maxEvents {
			if err := events.Delete(key(id - maxEvents)); err != nil {
				return err
			}
		}
		return put(events, key(id), e)
	})
}

// Events returns the newest n events of a run, the oldest of them first.
func (j *Journal) Events(run string, n int) ([]Event, error) {
	var all []Event
	err := j.view(run, func(b *bbolt.Bucket) error {
		c := b.Bucket(bucketEvents).Cursor()
		for k, v := c.Last(); k != nil && len(all) < n; k, v = c.Prev() {
			var e Event
			if err := read(v, &e); err != nil {
				return err
			}
			all = append(all, e)
		}
		return nil
	})
	slices.Reverse(all)
	return all, err
}

func (j *Journal) update(run string, f func(*bbolt.Bucket) error) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRuns).Bucket([]byte(run))
		if b == nil {
			return ErrNoRun
		}
		return f(b)
	})
	if err != nil {
		return fmt.Errorf("writing the journal of run %s: %w", run, err)
	}
	return nil
}

func (j *Journal) view(run string, f func(*bbolt.Bucket) error) error {
	err := j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRuns).Bucket([]byte(run))
		if b == nil {
			return ErrNoRun
		}
		return f(b)
	})
	if err != nil {
		return fmt.Errorf("reading the journal of run %s: %w", run, err)
	}
	return nil
}

// packFrom is how many bytes of JSON are packed: the names of a cluster's nodes and its pod templates are nearly all of a journal, and
// a tenth as long when they are.
const packFrom = 1 << 10

// gzipMagic begins what is packed; JSON begins otherwise.
var gzipMagic = []byte{0x1f, 0x8b}

func put(b *bbolt.Bucket, k []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) >= packFrom {
		var packed bytes.Buffer
		into := gzip.NewWriter(&packed)
		_, err := into.Write(data)
		if err = errors.Join(err, into.Close()); err != nil {
			return err
		}
		data = packed.Bytes()
	}
	return b.Put(k, data)
}

func get(b *bbolt.Bucket, k []byte, v any) error {
	data := b.Get(k)
	if data == nil {
		return fmt.Errorf("%s is missing", k)
	}
	return read(data, v)
}

// read reads what put wrote.
func read(data []byte, v any) error {
	if !bytes.HasPrefix(data, gzipMagic) {
		return json.Unmarshal(data, v)
	}
	from, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	text, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

func each[T any](b *bbolt.Bucket, f func(key []byte, v T)) error {
	return b.ForEach(func(k, data []byte) error {
		var v T
		if err := read(data, &v); err != nil {
			return fmt.Errorf("reading %s: %w", k, err)
		}
		f(k, v)
		return nil
	})
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// Newest is the newest run of a rollout; nil when it has none.
func (j *Journal) Newest(rollout string) (*Run, error) {
	runs, err := j.Runs()
	if err != nil {
		return nil, err
	}
	for _, r := range slices.Backward(runs) {
		if r.Rollout.Name == rollout {
			return &r, nil
		}
	}
	return nil, nil
}
