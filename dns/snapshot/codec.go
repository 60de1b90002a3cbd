package snapshot

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/seakeep/seakeep/dns/store"
)

// Bounds of what is decoded. A slice has at most 1,000 endpoints, of at most 600 bytes each; anything near these
// figures is no data of a cluster.
const (
	maxMeta   = 64 << 10
	maxRecord = 4 << 20
)

// end is the record kind that ends a snapshot.
const end = 0xff

// Encode writes a snapshot. It sets meta's Schema, Signed and the counts of the kinds in meta.Kinds from objects, which
// is read twice and must yield the same objects each time; kinds that meta.Kinds lacks must not be among them. A key
// that is not empty signs it.
func Encode(w io.Writer, meta Meta, objects iter.Seq[store.Object], key []byte) error {
	var counts [store.KindCount]int
	for o := range objects {
		counts[o.Kind()]++
	}
	kinds := make(map[string]KindMeta, len(meta.Kinds))
	for k, n := range counts {
		name := store.Kind(k).String()
		m, complete := meta.Kinds[name]
		if !complete && n > 0 {
			return fmt.Errorf("BUG: %d %s in a snapshot that is not complete for them", n, name)
		}
		if complete {
			kinds[name] = KindMeta{Version: m.Version, Count: n}
		}
	}
	meta.Schema, meta.Kinds, meta.Signed = SchemaVersion, kinds, len(key) > 0
	line, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	if len(line) >= maxMeta {
		return fmt.Errorf("%w: %d bytes of description", ErrTooLarge, len(line))
	}
	var mac hash.Hash
	out := w
	if meta.Signed {
		mac = hmac.New(sha256.New, key)
		out = io.MultiWriter(w, mac)
	}
	buffered := bufio.NewWriterSize(out, 1<<16)
	buffered.Write(line)
	buffered.WriteByte('\n')
	var record, length []byte
	for o := range objects {
		record = appendObject(record[:0], o)
		if len(record) > maxRecord {
			return fmt.Errorf("%w: %s %s has %d bytes", ErrTooLarge, o.Kind(), o.Key(), len(record))
		}
		length = binary.AppendUvarint(append(length[:0], byte(o.Kind())), uint64(len(record)))
		buffered.Write(length)
		buffered.Write(record)
	}
	buffered.WriteByte(end)
	if err := buffered.Flush(); err != nil {
		return err
	}
	if mac != nil {
		_, err = w.Write(mac.Sum(nil))
	}
	return err
}

// DecodeOptions bound and check what is decoded.
type DecodeOptions struct {
	// Cluster, if not empty, is the only cluster accepted.
	Cluster string
	// Authorities, if not empty, must have one in common with the snapshot's, if it names any.
	Authorities []string
	// Key, if not empty, must have signed the snapshot.
	Key []byte
	// MaxBytes bounds what is read; it must be > 0.
	MaxBytes int64
	// Meta, if not nil, is called with what the snapshot says of itself before the first object; its error refuses it.
	Meta func(Meta) error
}

// Decode reads a snapshot and hands its objects to each, which may refuse one. Until Decode has returned without an
// error nothing is known to be true: the caller throws away what it was handed.
func Decode(r io.Reader, o DecodeOptions, each func(store.Object) error) (Meta, error) {
	limited := &io.LimitedReader{R: r, N: o.MaxBytes}
	meta, err := decode(bufio.NewReaderSize(limited, 1<<16), o, each)
	if err != nil && limited.N <= 0 && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrFuture) {
		err = fmt.Errorf("%w: more than %d bytes", ErrTooLarge, o.MaxBytes)
	}
	return meta, err
}

func decode(r *bufio.Reader, o DecodeOptions, each func(store.Object) error) (Meta, error) {
	in := &signedReader{r: r}
	if len(o.Key) > 0 {
		in.mac = hmac.New(sha256.New, o.Key)
	}
	meta, err := decodeMeta(in)
	if err != nil {
		return Meta{}, err
	}
	if err := meta.check(o.Cluster, o.Authorities); err != nil {
		return meta, err
	}
	if in.mac != nil && !meta.Signed {
		return meta, ErrUnsigned
	}
	if o.Meta != nil {
		if err := o.Meta(meta); err != nil {
			return meta, err
		}
	}
	var counts [store.KindCount]int
	for {
		kind, err := in.ReadByte()
		if err != nil {
			return meta, torn(err)
		}
		if kind == end {
			break
		}
		if kind >= store.KindCount {
			return meta, fmt.Errorf("a record of kind %d, which there is not", kind)
		}
		object, err := decodeRecord(in, store.Kind(kind))
		if err != nil {
			return meta, fmt.Errorf("record %d of the %s: %w", counts[kind], store.Kind(kind), err)
		}
		counts[kind]++
		if err := each(object); err != nil {
			return meta, err
		}
	}
	for k, n := range counts {
		name := store.Kind(k).String()
		if want, complete := meta.Kinds[name]; want.Count != n || !complete && n > 0 {
			return meta, fmt.Errorf("%d %s, where the first line says %d", n, name, want.Count)
		}
	}
	return meta, in.verify(meta.Signed)
}

func decodeMeta(in *signedReader) (Meta, error) {
	var line []byte
	for {
		c, err := in.ReadByte()
		if err != nil {
			return Meta{}, torn(err)
		}
		if c == '\n' {
			break
		}
		if line = append(line, c); len(line) >= maxMeta {
			return Meta{}, fmt.Errorf("%w: its first line has no end", ErrTooLarge)
		}
	}
	var meta Meta
	decoder := json.NewDecoder(bytes.NewReader(line))
	if err := decoder.Decode(&meta); err != nil {
		return Meta{}, fmt.Errorf("its first line is no description of a snapshot: %w", err)
	}
	return meta, nil
}

func decodeRecord(in *signedReader, kind store.Kind) (store.Object, error) {
	length, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, torn(err)
	}
	if length > maxRecord {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrTooLarge, length)
	}
	record := make([]byte, length)
	if _, err := io.ReadFull(in, record); err != nil {
		return nil, torn(err)
	}
	return readObject(kind, string(record))
}

// signedReader feeds what is read to the HMAC.
type signedReader struct {
	r   *bufio.Reader
	mac hash.Hash
}

func (s *signedReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.mac != nil {
		s.mac.Write(p[:n])
	}
	return n, err
}

func (s *signedReader) ReadByte() (byte, error) {
	c, err := s.r.ReadByte()
	if err == nil && s.mac != nil {
		s.mac.Write([]byte{c})
	}
	return c, err
}

// verify reads what follows the end: the HMAC where there is one, and nothing else. Without a key an HMAC is not
// looked at: a signature nobody asked for must not keep a restart from its data.
func (s *signedReader) verify(signed bool) error {
	if signed {
		sum := make([]byte, sha256.Size)
		if _, err := io.ReadFull(s.r, sum); err != nil {
			return torn(err)
		}
		if s.mac != nil && !hmac.Equal(sum, s.mac.Sum(nil)) {
			return ErrUnsigned
		}
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return errors.New("there is something after its end")
	}
	return nil
}

func torn(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("torn: it ends in the middle")
	}
	return err
}
