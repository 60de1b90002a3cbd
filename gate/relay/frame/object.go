package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Object is what watches select objects by.
type Object struct {
	Namespace, Name string
	// NodeName is a pod's spec.nodeName. Of other kinds it means nothing.
	NodeName string
	Labels   map[string]string
}

// Further fields of metav1.ObjectMeta, of corev1.Pod and of corev1.PodSpec.
const (
	metaName        = 1
	metaNamespace   = 3
	metaLabels      = 11
	podSpec         = 2
	podSpecNodeName = 10
)

var errObject = errors.New("the object of an event is not understood")

// ObjectOf reads the object of a frame. What is returned does not keep the frame's bytes.
func ObjectOf(contentType string, frame []byte) (Object, error) {
	var o Object
	if mediaType(contentType) == Protobuf {
		raw, s := protobufObject(frame)
		if s != whole {
			return o, errObject
		}
		return o, o.readProtobuf(raw)
	}
	c := cursor{b: frame}
	if c.find("object") != whole {
		return o, errObject
	}
	return o, o.readJSON(&c)
}

func (o *Object) readProtobuf(raw []byte) error {
	meta, s := field(raw, objectMeta)
	if s != whole {
		return errObject
	}
	m := message{b: meta}
	for m.next() {
		switch m.number {
		case metaName:
			o.Name = string(m.value)
		case metaNamespace:
			o.Namespace = string(m.value)
		case metaLabels:
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			key, _ := field(m.value, entryKey)
			value, _ := field(m.value, entryValue)
			o.Labels[string(key)] = string(value)
		}
	}
	if m.s != whole {
		return errObject
	}
	if spec, s := field(raw, podSpec); s == whole {
		node, _ := field(spec, podSpecNodeName)
		o.NodeName = string(node)
	}
	return nil
}

func (o *Object) readJSON(c *cursor) error {
	if c.enter() != whole {
		return errObject
	}
	for {
		key, s := c.key()
		if s == end {
			return nil
		}
		if s != whole {
			return errObject
		}
		from := c.i
		if c.skip() != whole {
			return errObject
		}
		value := c.b[from:c.i]
		switch string(key) {
		case "metadata":
			var meta struct {
				Name      string            `json:"name"`
				Namespace string            `json:"namespace"`
				Labels    map[string]string `json:"labels"`
			}
			if err := json.Unmarshal(value, &meta); err != nil {
				return fmt.Errorf("%w: %w", errObject, err)
			}
			o.Name, o.Namespace, o.Labels = meta.Name, meta.Namespace, meta.Labels
		case "spec":
			spec := cursor{b: value}
			if spec.find("nodeName") == whole {
				spec.space()
				from := spec.i
				if spec.skip() == whole && json.Unmarshal(spec.b[from:spec.i], &o.NodeName) != nil {
					o.NodeName = "" // of another kind, where it is something else
				}
			}
		}
	}
}

// AsType is the frame as an event of another type with the same object.
func AsType(contentType string, frame []byte, typ Type) ([]byte, error) {
	return rewrite(contentType, frame, typ, 0)
}

// AsDeleted is the frame of an object's last state as the event that it is gone, at the version: what the API server
// tells a watch whose selection an object leaves.
func AsDeleted(contentType string, frame []byte, version uint64) ([]byte, error) {
	return rewrite(contentType, frame, Deleted, version)
}

// rewrite writes the frame with another type, and with another version unless that is 0.
func rewrite(contentType string, frame []byte, typ Type, version uint64) ([]byte, error) {
	if mediaType(contentType) == Protobuf {
		return rewriteProtobuf(frame, typ, version)
	}
	return rewriteJSON(frame, typ, version)
}

func rewriteJSON(frame []byte, typ Type, version uint64) ([]byte, error) {
	c := cursor{b: frame}
	if c.find("object") != whole {
		return nil, errObject
	}
	c.space()
	from := c.i
	if c.skip() != whole {
		return nil, errObject
	}
	object := c.b[from:c.i]
	out := make([]byte, 0, len(frame)+16)
	out = append(out, `{"type":"`...)
	out = append(out, typ.String()...)
	out = append(out, `","object":`...)
	if version == 0 {
		out = append(out, object...)
		return append(out, "}\n"...), nil
	}
	o := cursor{b: object}
	if o.find("metadata") != whole || o.find("resourceVersion") != whole {
		return nil, errObject
	}
	text, s := o.text()
	if s != whole {
		return nil, errObject
	}
	behind := o.i - 1 // the closing quote
	out = append(out, object[:behind-len(text)]...)
	out = strconv.AppendUint(out, version, 10)
	out = append(out, object[behind:]...)
	return append(out, "}\n"...), nil
}

func rewriteProtobuf(frame []byte, typ Type, version uint64) ([]byte, error) {
	if len(frame) < 4 {
		return nil, errObject
	}
	out, err := replaced(frame[4:], eventType, func([]byte) ([]byte, error) { return []byte(typ.String()), nil })
	if err == nil && version != 0 {
		text := strconv.AppendUint(nil, version, 10)
		// From the inside out each length changes: the version's, the metadata's, the object's, …
		out, err = replaced(out, eventObject, func(b []byte) ([]byte, error) {
			return replaced(b, extensionRaw, func(b []byte) ([]byte, error) {
				inner, ok := bytes.CutPrefix(b, magic)
				if !ok {
					return nil, errObject
				}
				b, err := replaced(inner, unknownRaw, func(b []byte) ([]byte, error) {
					return replaced(b, objectMeta, func(b []byte) ([]byte, error) {
						return replaced(b, metaVersion, func([]byte) ([]byte, error) { return text, nil })
					})
				})
				return append(magic[:len(magic):len(magic)], b...), err
			})
		})
	}
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(out)), uint32(len(out))), out...), nil
}

// replaced is the message with the value of its first field of the number replaced, everything else byte for byte.
func replaced(b []byte, number protowire.Number, with func([]byte) ([]byte, error)) ([]byte, error) {
	m := message{b: b}
	for {
		at := len(b) - len(m.b)
		if !m.next() || m.s != whole {
			return nil, errObject
		}
		if m.number != number || m.value == nil {
			continue
		}
		value, err := with(m.value)
		if err != nil {
			return nil, err
		}
		out := make([]byte, 0, len(b)+len(value)-len(m.value)+4)
		out = append(out, b[:at]...)
		out = protowire.AppendTag(out, number, protowire.BytesType)
		out = protowire.AppendBytes(out, value)
		return append(out, m.b...), nil
	}
}

// protobufObject is the encoded object of a frame.
func protobufObject(frame []byte) ([]byte, state) {
	if len(frame) < 4 {
		return nil, bad
	}
	extension, s := field(frame[4:], eventObject)
	if s != whole {
		return nil, bad
	}
	raw, s := field(extension, extensionRaw)
	if s != whole || !bytes.HasPrefix(raw, magic) {
		return nil, bad
	}
	return field(raw[len(magic):], unknownRaw)
}
