package survive

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/singleflight"
	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/client-go/kubernetes/scheme"
)

// media is how an answer is written.
type media struct {
	protobuf bool
	// partial is metadata only (PartialObjectMetadata).
	partial bool
}

func (m media) contentType() string {
	if m.protobuf {
		return runtime.ContentTypeProtobuf
	}
	return runtime.ContentTypeJSON
}

// transforms allows metadata only: as a list for lists, else as an object. A Table needs the API server's columns.
// Custom resources have no protobuf form, their metadata has.
type transforms struct {
	kind    string
	builtIn bool
}

func (t transforms) AllowsMediaTypeTransform(_, subType string, target *schema.GroupVersionKind) bool {
	if target == nil {
		return t.builtIn || subType == "json"
	}
	return *target == metav1.SchemeGroupVersion.WithKind(t.kind)
}
func (transforms) AllowsServerVersion(string) bool       { return false }
func (transforms) AllowsStreamSchema(schema string) bool { return schema == "watch" }

// formats are what can be written, the default first.
var formats = slices.DeleteFunc(slices.Clone(scheme.Codecs.SupportedMediaTypes()), func(info runtime.SerializerInfo) bool {
	return info.MediaType != runtime.ContentTypeJSON && info.MediaType != runtime.ContentTypeProtobuf
})

// negotiate picks the first format of an Accept header that can be written.
func negotiate(accept string, k *kind, verb string) (media, *runtime.SerializerInfo, bool) {
	partial := "PartialObjectMetadata"
	if verb == "list" {
		partial = "PartialObjectMetadataList"
	}
	options, ok := negotiation.NegotiateMediaTypeOptions(accept, formats, transforms{partial, k.builtIn()})
	if !ok || options.Pretty {
		return media{}, nil, false
	}
	return media{protobuf: options.Accepted.MediaType == runtime.ContentTypeProtobuf, partial: options.Convert != nil}, &options.Accepted, true
}

// protobufPrefix begins every protobuf answer of the API server.
var protobufPrefix = []byte("k8s\x00")

// envelope wraps a message as the API server does.
func envelope(apiVersion, kind string, raw []byte) ([]byte, error) {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	body, err := unknown.Marshal()
	if err != nil {
		return nil, err
	}
	return append(slices.Clip(slices.Clone(protobufPrefix)), body...), nil
}

// single encodes one object as it stands in an answer of its own or in an event.
func single(k *kind, m media, object runtime.Object) ([]byte, error) {
	if m.partial {
		accessor, err := meta.Accessor(object)
		if err != nil {
			return nil, err
		}
		partial := meta.AsPartialObjectMetadata(accessor)
		partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
		if m.protobuf {
			raw, err := partial.Marshal()
			if err != nil {
				return nil, err
			}
			return envelope(metav1.SchemeGroupVersion.String(), partial.Kind, raw)
		}
		return json.Marshal(partial)
	}
	if m.protobuf {
		raw, err := object.(message).Marshal()
		if err != nil {
			return nil, err
		}
		return envelope(k.apiVersion(), k.Kind, raw)
	}
	if u, ok := object.(*unstructured.Unstructured); ok {
		return u.MarshalJSON()
	}
	object.GetObjectKind().SetGroupVersionKind(k.gvk())
	return json.Marshal(object)
}

// list encodes the objects as a list at the version.
func list(k *kind, m media, version uint64, objects []*object) ([]byte, error) {
	switch {
	case m.partial:
		return partialList(k, m, version, objects)
	case m.protobuf:
		return protobufList(k, version, objects)
	default:
		return jsonList(k, version, objects)
	}
}

// protobufList writes a list message around the objects as they are: the metadata is field 1 and the items are field 2 of
// every list type of Kubernetes.
func protobufList(k *kind, version uint64, objects []*object) ([]byte, error) {
	head := metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}
	encoded, err := head.Marshal()
	if err != nil {
		return nil, err
	}
	size := 16 + len(encoded)
	for _, o := range objects {
		size += 6 + len(o.raw)
	}
	raw := make([]byte, 0, size)
	raw = protowire.AppendTag(raw, 1, protowire.BytesType)
	raw = protowire.AppendBytes(raw, encoded)
	for _, o := range objects {
		raw = protowire.AppendTag(raw, 2, protowire.BytesType)
		raw = protowire.AppendBytes(raw, o.raw)
	}
	return envelope(k.apiVersion(), k.Kind+"List", raw)
}

func jsonList(k *kind, version uint64, objects []*object) ([]byte, error) {
	var b bytes.Buffer
	if k.builtIn() {
		fmt.Fprintf(&b, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, k.Kind+"List", k.apiVersion(), version)
	} else { // the API server, too, writes lists of custom resources a little differently
		fmt.Fprintf(&b, `{"apiVersion":%q,"items":[`, k.apiVersion())
	}
	for i, o := range objects {
		if i > 0 {
			b.WriteByte(',')
		}
		if !k.builtIn() {
			b.Write(bytes.TrimSpace(o.raw))
			continue
		}
		decoded, err := o.decode(k)
		if err != nil {
			return nil, err
		}
		item, err := json.Marshal(decoded)
		if err != nil {
			return nil, err
		}
		b.Write(item)
	}
	if k.builtIn() {
		b.WriteString("]}\n")
	} else {
		fmt.Fprintf(&b, "],\"kind\":%q,\"metadata\":{\"continue\":\"\",\"resourceVersion\":\"%d\"}}\n", k.Kind+"List", version)
	}
	return b.Bytes(), nil
}

func partialList(k *kind, m media, version uint64, objects []*object) ([]byte, error) {
	whole := &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: "PartialObjectMetadataList"},
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)},
		Items:    slices.Grow([]metav1.PartialObjectMetadata(nil), len(objects)),
	}
	for _, o := range objects {
		decoded, err := o.decode(k)
		if err != nil {
			return nil, err
		}
		accessor, err := meta.Accessor(decoded)
		if err != nil {
			return nil, err
		}
		partial := meta.AsPartialObjectMetadata(accessor)
		partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
		whole.Items = append(whole.Items, *partial)
	}
	if !m.protobuf {
		return json.Marshal(whole)
	}
	raw, err := whole.Marshal()
	if err != nil {
		return nil, err
	}
	return envelope(whole.APIVersion, whole.Kind, raw)
}

const (
	// gzipFrom is from where on answers are compressed, as the API server does.
	gzipFrom = 128 << 10
	// answersMost and answersCount bound the encoded answers that are kept during an outage, in bytes and by number:
	// thousands of kube-proxies ask for the same.
	answersMost, answersCount = 64 << 20, 1024
)

// answerKey is what makes two answers the same bytes.
type answerKey struct {
	resource, namespace, labels, fields string
	version                             uint64
	media                               media
	gzip                                bool
}

func (k *answerKey) parts() []string {
	return []string{k.resource, k.namespace, k.labels, k.fields, fmt.Sprint(k.version, k.media, k.gzip)}
}

// answers are encoded once for everyone who asks the same.
type answers struct {
	group singleflight.Group
	mu    sync.Mutex
	all   map[answerKey]*encoded
	bytes int
}

type encoded struct {
	body    []byte
	gzipped bool
}

func newAnswers() *answers { return &answers{all: map[answerKey]*encoded{}} }

func (a *answers) get(key answerKey, encode func() ([]byte, error)) (*encoded, error) {
	a.mu.Lock()
	known := a.all[key]
	a.mu.Unlock()
	if known != nil {
		return known, nil
	}
	made, err, _ := a.group.Do(fmt.Sprintf("%q", key.parts()), func() (any, error) {
		body, err := encode()
		if err != nil {
			return nil, err
		}
		made := &encoded{body: body}
		if key.gzip && len(body) > gzipFrom {
			if made.body, err = zip(body); err != nil {
				return nil, err
			}
			made.gzipped = true
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.bytes+len(made.body) <= answersMost && len(a.all) < answersCount {
			a.all[key] = made
			a.bytes += len(made.body)
		}
		return made, nil
	})
	if err != nil {
		return nil, err
	}
	return made.(*encoded), nil
}

func zip(body []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (a *answers) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.all)
	a.bytes = 0
}
