package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	corev1 "k8s.io/api/core/v1"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/internal/statefile"
)

// maxStaticYAML bounds a file of objects, which is decoded in memory: 20,000 services are some 40 MB as kubectl prints them.
const maxStaticYAML = 64 << 20

// Static reads a file: a snapshot, or objects as `kubectl get services,endpointslices,namespaces -A -o yaml` prints them.
// It is what remains when there is nothing else, and as old as the file.
type Static struct {
	path string
	key  []byte
}

var _ keeper.Fetcher = (*Static)(nil)

// NewStatic returns a static file. A key that is not empty must have signed a snapshot.
func NewStatic(path string, key []byte) *Static { return &Static{path: path, key: key} }

// Name implements keeper.Fetcher.
func (s *Static) Name() string { return "file " + s.path }

// Class implements keeper.Fetcher.
func (s *Static) Class() keeper.Class { return keeper.Static }

// Fetch implements keeper.Fetcher.
func (s *Static) Fetch(ctx context.Context, each func(store.Object) error) (keeper.Origin, error) {
	file, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return keeper.Origin{}, fmt.Errorf("opening %s: %w", s.path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return keeper.Origin{}, fmt.Errorf("opening %s: %w", s.path, err)
	}
	if !info.Mode().IsRegular() {
		return keeper.Origin{}, fmt.Errorf("%s is no regular file", s.path)
	}
	origin, err := s.read(ctx, file, info.ModTime(), each)
	if err != nil {
		return keeper.Origin{}, fmt.Errorf("reading %s: %w", s.path, err)
	}
	return origin, nil
}

func (s *Static) read(ctx context.Context, file io.Reader, modified time.Time, each func(store.Object) error) (keeper.Origin, error) {
	in := bufio.NewReader(file)
	begin, err := in.Peek(len(snapshotBegins))
	if err != nil && err != io.EOF {
		return keeper.Origin{}, err
	}
	switch {
	case bytes.HasPrefix(begin, []byte(stateBegins)):
		return s.readState(each)
	case bytes.Equal(begin, []byte(snapshotBegins)):
		return s.readSnapshot(in, each)
	}
	return readObjects(ctx, in, modified, each)
}

// How files begin: one of a state folder, and what a relay's /snapshot answers.
const (
	stateBegins    = "seakeep-st"
	snapshotBegins = `{"schema":`
)

func (s *Static) readState(each func(store.Object) error) (origin keeper.Origin, err error) {
	file := statefile.New(filepath.Dir(s.path), filepath.Base(s.path), snapshot.SchemaVersion)
	file.SetLimit(snapshot.DefaultMaxBytes)
	var objects []store.Object
	_, err = file.LoadStream(func(_ int, body io.Reader) error {
		objects = nil // of an older generation that was bad
		origin, err = s.readSnapshot(body, func(o store.Object) error {
			objects = append(objects, o)
			return nil
		})
		return err
	})
	if err != nil {
		return keeper.Origin{}, err
	}
	for _, o := range objects {
		if err := each(o); err != nil {
			return keeper.Origin{}, err
		}
	}
	return origin, nil
}

func (s *Static) readSnapshot(in io.Reader, each func(store.Object) error) (keeper.Origin, error) {
	meta, err := snapshot.Decode(in, snapshot.DecodeOptions{Key: s.key, MaxBytes: snapshot.DefaultMaxBytes}, each)
	return originOf(meta), err
}

var strict = func() runtime.Decoder {
	s := runtime.NewScheme()
	for _, add := range schemes {
		if err := add(s); err != nil {
			panic("BUG: " + err.Error())
		}
	}
	return serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
}()

// readObjects reads documents of objects, or lists of them. An unknown field, a kind that DNS has no use for, or an object
// that is there twice is an error: a typing error would else be found in the outage.
func readObjects(ctx context.Context, in io.Reader, modified time.Time, each func(store.Object) error) (keeper.Origin, error) {
	limited := &io.LimitedReader{R: in, N: maxStaticYAML + 1}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(limited))
	origin := keeper.Origin{Confirmed: modified}
	reader := &staticReader{each: each, seen: map[store.Kind]map[store.Key]bool{}}
	for number := 1; ; number++ {
		if err := ctx.Err(); err != nil {
			return keeper.Origin{}, err
		}
		document, err := documents.Read()
		if limited.N <= 0 {
			return keeper.Origin{}, fmt.Errorf("it has more than %d bytes", maxStaticYAML)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return keeper.Origin{}, fmt.Errorf("document %d: %w", number, err)
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if err := reader.document(document); err != nil {
			return keeper.Origin{}, fmt.Errorf("document %d: %w", number, err)
		}
	}
	if reader.objects == 0 {
		return keeper.Origin{}, errors.New("there is no object in it")
	}
	// Without the namespaces every name would be denied: DNS looks there first.
	for namespace := range reader.used {
		if !reader.seen[store.Namespaces][store.Key{Name: namespace}] {
			if err := each(&store.Namespace{Name: namespace}); err != nil {
				return keeper.Origin{}, err
			}
		}
	}
	origin.Cluster = reader.cluster
	return origin, nil
}

type staticReader struct {
	each    func(store.Object) error
	seen    map[store.Kind]map[store.Key]bool
	used    map[string]bool
	cluster string
	objects int
}

func (r *staticReader) document(text []byte) error {
	o, _, err := strict.Decode(text, nil, nil)
	if err != nil {
		return err
	}
	return r.object(o)
}

func (r *staticReader) object(o runtime.Object) error {
	if list, ok := o.(*corev1.List); ok {
		for i, item := range list.Items {
			if err := r.document(item.Raw); err != nil {
				return fmt.Errorf("item %d: %w", i+1, err)
			}
		}
		return nil
	}
	if meta.IsListType(o) {
		return meta.EachListItem(o, r.object)
	}
	if ns, ok := o.(*corev1.Namespace); ok && ns.Name == metav1.NamespaceSystem {
		r.cluster = string(ns.UID)
	}
	converted := convert(o)
	if converted == nil {
		if _, finished := o.(*corev1.Pod); finished {
			return nil
		}
		return fmt.Errorf("%T is nothing that DNS shows", o)
	}
	kind, key := converted.Kind(), converted.Key()
	if key.Name == "" || (key.Namespace == "") != (kind == store.Namespaces) {
		return fmt.Errorf("one of the %s lacks its name or namespace", kind)
	}
	if r.seen[kind] == nil {
		r.seen[kind] = map[store.Key]bool{}
	}
	if r.seen[kind][key] {
		return fmt.Errorf("%s %s is there twice", kind, key)
	}
	r.seen[kind][key] = true
	r.objects++
	if key.Namespace != "" {
		if r.used == nil {
			r.used = map[string]bool{}
		}
		r.used[key.Namespace] = true
	}
	return r.each(converted)
}
