package survive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/seakeep/seakeep/internal/statefile"
)

const (
	// saveEvery is how often a resource that changes is written: a rollout changes endpoints many times a second.
	saveEvery = 10 * time.Second
	// ageEvery is how often one that does not change is written, so that a restart does not make it look older than it is.
	ageEvery = 10 * time.Minute
	// fileLimit bounds a file, and wholeLimit what it unpacks to, in bytes. 10,000 nodes are about 100 MB unpacked.
	fileLimit, wholeLimit = 256 << 20, 1 << 30
	// objectLimit bounds one object; etcd takes 1.5 MiB.
	objectLimit = 8 << 20

	schemaVersion = 1
)

// fileHeader is the first line of a kept file's body, before its objects, each with its length in front.
type fileHeader struct {
	// Cluster is the UID of its namespace kube-system.
	Cluster string `json:"cluster"`
	kind
	ResourceVersion uint64    `json:"resourceVersion"`
	ChangedVersion  uint64    `json:"changedVersion"`
	Confirmed       time.Time `json:"confirmed"`
	Objects         int       `json:"objects"`
}

// encodeFile writes a kept file's body, compressed.
func encodeFile(w io.Writer, cluster string, s *snapshot) error {
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(packed, 1<<16)
	header, err := json.Marshal(fileHeader{
		Cluster: cluster, kind: s.kind, ResourceVersion: s.version, ChangedVersion: s.changed, Confirmed: s.confirmed.UTC().Round(0), Objects: len(s.objects),
	})
	if err != nil {
		return err
	}
	if _, err := out.Write(append(header, '\n')); err != nil {
		return err
	}
	var length []byte
	for _, o := range s.objects {
		length = binary.AppendUvarint(length[:0], uint64(len(o.raw)))
		if _, err := out.Write(length); err != nil {
			return err
		}
		if _, err := out.Write(o.raw); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return packed.Close()
}

// decodeFile reads a kept file's body. Whatever the bytes are, it returns an error or a state that could have been kept.
func decodeFile(r io.Reader) (cluster string, s *snapshot, err error) {
	packed, err := gzip.NewReader(r)
	if err != nil {
		return "", nil, fmt.Errorf("unpacking: %w", err)
	}
	bounded := &io.LimitedReader{R: packed, N: wholeLimit}
	in := bufio.NewReaderSize(bounded, 1<<16)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", nil, fmt.Errorf("reading the first line: %w", err)
	}
	var header fileHeader
	if err := json.Unmarshal(line, &header); err != nil {
		return "", nil, fmt.Errorf("reading the first line: %w", err)
	}
	switch {
	case header.Cluster == "":
		return "", nil, errors.New("it does not say of which cluster it is")
	case header.Version == "" || header.Resource == "" || header.Kind == "" || header.ResourceVersion == 0 || header.ChangedVersion > header.ResourceVersion:
		return "", nil, errors.New("its first line is not complete")
	case header.Group == "" && (header.Resource == "secrets" || header.Kind == "Secret"):
		return "", nil, errSecrets
	case header.Objects < 0 || header.Objects > wholeLimit/16:
		return "", nil, fmt.Errorf("it says it has %d objects", header.Objects)
	}
	s = &snapshot{kind: header.kind, version: header.ResourceVersion, changed: header.ChangedVersion, confirmed: header.Confirmed}
	for i := range header.Objects {
		o, err := decodeFileObject(in, &s.kind)
		if err != nil {
			return "", nil, fmt.Errorf("reading object %d of %d: %w", i+1, header.Objects, err)
		}
		if last := len(s.objects) - 1; last >= 0 && byKey(s.objects[last], o) >= 0 {
			return "", nil, fmt.Errorf("object %s is not in its place", o.key())
		}
		s.objects = append(s.objects, o)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return "", nil, errors.New("there is more behind the last object")
	}
	return header.Cluster, s, nil
}

func decodeFileObject(in *bufio.Reader, k *kind) (*object, error) {
	length, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, err
	}
	if length > objectLimit {
		return nil, fmt.Errorf("%d bytes are more than the limit of %d", length, objectLimit)
	}
	var raw bytes.Buffer // grows with what is there, not with what is said
	if _, err := io.CopyN(&raw, in, int64(length)); err != nil {
		return nil, err
	}
	decoded, err := decodeRaw(k, raw.Bytes())
	if err != nil {
		return nil, err
	}
	accessor, err := meta.Accessor(decoded)
	if err != nil {
		return nil, err
	}
	o := &object{namespace: accessor.GetNamespace(), name: accessor.GetName(), labels: accessor.GetLabels(), raw: slices.Clip(raw.Bytes())}
	if pod, ok := decoded.(*corev1.Pod); ok {
		o.node = pod.Spec.NodeName
	}
	if o.version, err = parseVersion(accessor.GetResourceVersion()); err != nil {
		return nil, err
	}
	if o.name == "" || k.Namespaced != (o.namespace != "") {
		return nil, fmt.Errorf("object %q has no name, or a namespace where it should not", o.key())
	}
	return o, nil
}

// file is one resource's place on disk.
type file struct {
	state *statefile.File
	// saved is the revision on disk, at is when it was written, failing that the last write failed.
	saved   uint64
	at      time.Time
	failing bool
}

func newFile(dir, name string) *file {
	f := &file{state: statefile.New(dir, "relay-"+name, schemaVersion)}
	f.state.SetLimit(fileLimit)
	return f
}

// load reads what an earlier process kept. It refuses what is another cluster's than the files before it.
func (s *Store) load(name string, k *kept, f *file) {
	var found *snapshot
	var cluster string
	fileMeta, err := f.state.LoadStream(func(_ int, body io.Reader) (err error) {
		if cluster, found, err = decodeFile(body); err != nil {
			return err
		}
		if s.cluster != "" && cluster != s.cluster {
			return fmt.Errorf("it is of cluster %s, and the others are of %s", cluster, s.cluster)
		}
		if want := found.kind.Resource + dotted(found.kind.Group); want != name {
			return fmt.Errorf("it has %s", want)
		}
		return nil
	})
	for _, refused := range fileMeta.Refused {
		s.log.Error("A kept file was refused", "resource", name, "reason", refused)
	}
	if err != nil {
		if !errors.Is(err, statefile.ErrNone) {
			s.log.Error("Nothing kept of a resource can be read; an outage before it is read again finds nothing", "resource", name, "reason", err)
		}
		return
	}
	s.cluster = cluster
	k.restore(found)
	f.at = fileMeta.Saved
	s.log.Info("Read what was kept of a resource", "resource", name, "objects", len(found.objects), "resourceVersion", found.version, "confirmed", found.confirmed)
}

func dotted(group string) string {
	if group == "" {
		return ""
	}
	return "." + group
}

// saveAll writes what changed, now and then, until the context ends, and once more at the end.
func (s *Store) saveAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for name, k := range s.kept {
				s.save(name, k, 0)
			}
			s.saveGrants()
			return
		case <-time.After(time.Second/2 + rand.N(time.Second)):
		}
		for name, k := range s.kept {
			s.save(name, k, saveEvery)
		}
		if s.grants.due(saveEvery) {
			s.saveGrants()
		}
		s.measure()
	}
}

// save writes the resource's state when it changed and was not written for a while. An error is said once: what is in
// memory is served all the same.
func (s *Store) save(name string, k *kept, every time.Duration) {
	f := s.files[name]
	k.mu.Lock()
	revision, whole, confirmed := k.revision, k.whole, k.confirmed
	var state *snapshot
	due := revision != f.saved && time.Since(f.at) >= every || time.Since(f.at) >= ageEvery && confirmed.After(f.at)
	if whole && due {
		state = k.snapshotLocked()
	}
	k.mu.Unlock()
	s.mu.Lock()
	cluster := s.cluster
	s.mu.Unlock()
	if state == nil || cluster == "" {
		return
	}
	err := s.writeFile(f, cluster, state)
	f.at = time.Now()
	switch {
	case err == nil:
		f.saved, f.failing = revision, false
		s.metrics.saves.WithLabelValues(name, saveOK).Inc()
	default:
		s.metrics.saves.WithLabelValues(name, saveFailed).Inc()
		if !f.failing {
			s.log.Error("Cannot keep a resource on disk; it is still served from memory", "resource", name, "reason", err)
		}
		f.failing = true
	}
}

func (s *Store) writeFile(f *file, cluster string, state *snapshot) error {
	var packed bytes.Buffer
	if err := encodeFile(&packed, cluster, state); err != nil {
		return err
	}
	return f.state.SaveStream(func(w io.Writer) error {
		_, err := w.Write(packed.Bytes())
		return err
	})
}
