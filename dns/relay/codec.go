package relay

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/seakeep/seakeep/dns/store"
)

// encoding is how an answer is written.
type encoding uint8

const (
	asJSON encoding = iota
	asProtobuf
	encodings = 2
)

func (e encoding) contentType() string {
	if e == asProtobuf {
		return runtime.ContentTypeProtobuf
	}
	return runtime.ContentTypeJSON
}

// envelope is what distinguishes Kubernetes' protobuf from any other: serializer/protobuf has it, unexported.
var envelope = []byte("k8s\x00")

// negotiate picks the first encoding that the client accepts and the kind has. What comes with parameters (as=Table,
// of kubectl) is not ours; clients name a plain form after it.
func negotiate(accept string, protobuf bool) (encoding, bool) {
	if accept == "" {
		return asJSON, true
	}
	for clause := range strings.SplitSeq(accept, ",") {
		media, parameters, err := mime.ParseMediaType(clause)
		if err != nil || parameters["as"] != "" {
			continue
		}
		switch media {
		case runtime.ContentTypeProtobuf:
			if protobuf {
				return asProtobuf, true
			}
		case runtime.ContentTypeJSON, "application/*", "*/*":
			return asJSON, true
		}
	}
	return asJSON, false
}

// message is what gogo's generated code has.
type message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// encode is an object by itself, with its type.
func encode(e encoding, t metav1.TypeMeta, o runtime.Object) ([]byte, error) {
	if e == asJSON {
		o.GetObjectKind().SetGroupVersionKind(t.GroupVersionKind())
		return json.Marshal(o)
	}
	m, ok := o.(message)
	if !ok {
		return nil, fmt.Errorf("BUG: %T has no protobuf form", o)
	}
	raw := make([]byte, m.Size())
	if _, err := m.MarshalToSizedBuffer(raw); err != nil {
		return nil, err
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: t.APIVersion, Kind: t.Kind}, Raw: raw}
	body, err := unknown.Marshal()
	return append(envelope[:len(envelope):len(envelope)], body...), err
}

// frame is one event of a watch.
func frame(e encoding, t metav1.TypeMeta, kind watch.EventType, o runtime.Object) ([]byte, error) {
	raw, err := encode(e, t, o)
	if err != nil {
		return nil, err
	}
	if e == asJSON {
		b := make([]byte, 0, len(raw)+40)
		b = append(b, `{"type":"`...)
		b = append(b, kind...)
		b = append(b, `","object":`...)
		b = append(b, raw...)
		return append(b, "}\n"...), nil
	}
	event := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw}}
	b := make([]byte, 4+event.Size())
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, err = event.MarshalToSizedBuffer(b[4:])
	return b, err
}

// listWriter writes a list object by object: what a list costs does not depend on its length, however slowly it is
// read.
type listWriter struct {
	resource *resource
	meta     metav1.ListMeta
	objects  []store.Object
	render   func(store.Object) object
}

func (l *listWriter) write(e encoding, to io.Writer) error {
	w := bufio.NewWriterSize(to, chunk)
	var err error
	if e == asJSON {
		err = l.writeJSON(w)
	} else {
		err = l.writeProtobuf(w)
	}
	if err != nil {
		return err
	}
	return w.Flush()
}

func (l *listWriter) typeMeta() metav1.TypeMeta {
	t := l.resource.typeMeta()
	t.Kind += "List"
	return t
}

func (l *listWriter) writeJSON(w *bufio.Writer) error {
	meta, err := json.Marshal(l.meta)
	if err != nil {
		return err
	}
	t := l.typeMeta()
	fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, t.Kind, t.APIVersion, meta)
	encoder := json.NewEncoder(w)
	for i, o := range l.objects {
		if i > 0 {
			w.WriteByte(',')
		}
		if err := encoder.Encode(l.render(o)); err != nil {
			return err
		}
	}
	_, err = w.WriteString("]}\n")
	return err
}

// Tags of the fields metadata (1) and items (2) that every list has; both are length-delimited.
const (
	tagMeta  = 1<<3 | 2
	tagItems = 2<<3 | 2
)

// writeProtobuf goes over the objects twice, because the length of it all stands at the front.
func (l *listWriter) writeProtobuf(w *bufio.Writer) error {
	size := fieldSize(l.meta.Size())
	for _, o := range l.objects {
		size += fieldSize(l.render(o).(message).Size())
	}
	if _, err := w.Write(envelope); err != nil {
		return err
	}
	t := l.typeMeta()
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: t.APIVersion, Kind: t.Kind}}
	var buffer []byte
	write := func(tag byte, m message) (int, error) {
		n := m.Size()
		buffer = append(buffer[:0], tag)
		buffer = binary.AppendUvarint(buffer, uint64(n))
		head := len(buffer)
		buffer = append(buffer, make([]byte, n)...)
		if _, err := m.MarshalToSizedBuffer(buffer[head:]); err != nil {
			return 0, err
		}
		return w.Write(buffer)
	}
	_, err := unknown.MarshalToWriter(w, size, func(io.Writer) (int, error) {
		written, err := write(tagMeta, &l.meta)
		for _, o := range l.objects {
			if err != nil {
				return written, err
			}
			var n int
			n, err = write(tagItems, l.render(o).(message))
			written += n
		}
		return written, err
	})
	return err
}

func fieldSize(n int) int {
	size := 1 + n
	for v := uint64(n); ; v >>= 7 {
		size++
		if v < 0x80 {
			return size
		}
	}
}

// writeStatus answers with an error, as an API server words it.
func writeStatus(w http.ResponseWriter, status *metav1.Status) {
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(status.Details.RetryAfterSeconds))
	}
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

var (
	_ message = (*corev1.Namespace)(nil)
	_ message = (*discoveryv1.EndpointSlice)(nil)
)
