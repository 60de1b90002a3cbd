package frame

import (
	"bytes"
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers of the fields walked, from the generated.proto files of k8s.io/apimachinery.
const (
	eventType       = 1 // metav1.WatchEvent
	eventObject     = 2
	extensionRaw    = 1 // runtime.RawExtension
	unknownRaw      = 2 // runtime.Unknown
	objectMeta      = 1 // ObjectMeta or ListMeta of every object and list that the API serves
	metaVersion     = 6 // metav1.ObjectMeta
	metaAnnotations = 12
	listVersion     = 2 // metav1.ListMeta
	statusCode      = 6 // metav1.Status
	entryKey        = 1 // an entry of a map
	entryValue      = 2
)

// magic begins everything that is encoded with a runtime.Unknown around it.
var magic = []byte("k8s\x00")

func parseProtobuf(f *Frame) error {
	var typ, object []byte
	m := message{b: f.Bytes[4:]}
	for m.next() {
		switch {
		case m.number == eventType && typ == nil:
			typ = m.value
		case m.number == eventObject && object == nil:
			object = m.value
		}
	}
	if m.s != whole {
		return errNoFrame
	}
	var known bool
	if f.Type, known = typeOf(typ); !known {
		return errNoFrame
	}
	raw, s := field(object, extensionRaw)
	if s != whole || !bytes.HasPrefix(raw, magic) {
		return errNoFrame
	}
	if raw, s = field(raw[len(magic):], unknownRaw); s != whole {
		return errNoFrame
	}
	if f.Type == Error {
		m = message{b: raw}
		for m.next() {
			if m.number == statusCode {
				f.Code = int(int32(m.varint))
			}
		}
		return nil
	}
	meta, s := field(raw, objectMeta)
	if s != whole {
		return errVersion
	}
	m = message{b: meta}
	for m.next() {
		switch {
		case m.number == metaVersion && m.value != nil && f.Version == 0:
			if f.Version, _ = parseVersion(m.value); f.Version == 0 {
				return errVersion
			}
		case m.number == metaAnnotations:
			if f.Type == Bookmark {
				key, _ := field(m.value, entryKey)
				value, _ := field(m.value, entryValue)
				f.InitialEventsEnd = f.InitialEventsEnd || bytes.Equal(key, initialEventsEnd) && string(value) == "true"
			}
		}
	}
	if m.s != whole || f.Version == 0 {
		return errVersion
	}
	return nil
}

// protobufListVersion reads the version of a list; its metadata is the first field of what is wrapped.
func protobufListVersion(head []byte) (version uint64, s state) {
	if len(head) < len(magic) {
		return 0, short
	}
	if !bytes.HasPrefix(head, magic) {
		return 0, bad
	}
	raw, outer := field(head[len(magic):], unknownRaw)
	if outer = inside(cut, outer); outer == end || outer == bad {
		return 0, outer
	}
	if raw == nil {
		return 0, short
	}
	meta, middle := field(raw, objectMeta)
	if middle = inside(outer, middle); meta == nil || middle == end || middle == bad {
		return 0, middle
	}
	text, inner := field(meta, listVersion)
	if inner = inside(middle, inner); inner != whole {
		return 0, inner
	}
	if version, ok := parseVersion(text); ok {
		return version, whole
	}
	return 0, bad
}

// cut is the state of a field of which only the beginning is there.
const cut state = bad + 1

// inside is the state of what was looked for in a message that is itself whole or short: what a whole message does not
// have will not come, what a whole message cuts off is no message.
func inside(message, s state) state {
	switch {
	case message == whole && (s == short || s == cut):
		return bad
	case message != whole && (s == end || s == cut):
		return short
	}
	return s
}

// field returns the value of the first length-delimited field of the number; end when there is none.
func field(b []byte, number protowire.Number) ([]byte, state) {
	m := message{b: b}
	for m.next() {
		if m.number == number && m.value != nil {
			return m.value, m.s
		}
	}
	if m.s != whole {
		return nil, m.s
	}
	return nil, end
}

// message walks the fields of one.
type message struct {
	b      []byte
	number protowire.Number
	value  []byte // of a length-delimited field, else nil
	varint uint64
	s      state
}

// next goes to the next field. It is false at the end of the message, and where it is not whole: then s says how.
func (m *message) next() bool {
	if m.s != whole || len(m.b) == 0 {
		return false
	}
	number, kind, n := protowire.ConsumeTag(m.b)
	if n < 0 {
		m.s = stateOf(n)
		return false
	}
	m.number, m.value, m.varint = number, nil, 0
	m.b = m.b[n:]
	switch kind {
	case protowire.BytesType:
		size, n := protowire.ConsumeVarint(m.b)
		if n < 0 {
			m.s = stateOf(n)
			return false
		}
		m.b = m.b[n:]
		if size > uint64(len(m.b)) {
			m.value, m.b, m.s = m.b[:len(m.b):len(m.b)], nil, cut
			if m.value == nil {
				m.value = []byte{}
			}
			return true
		}
		m.value, m.b = m.b[:size:size], m.b[size:]
		return true
	case protowire.VarintType:
		m.varint, n = protowire.ConsumeVarint(m.b)
	default:
		n = protowire.ConsumeFieldValue(number, kind, m.b)
	}
	if n < 0 {
		m.s = stateOf(n)
		return false
	}
	m.b = m.b[n:]
	return true
}

// stateOf tells a message that breaks off from one that is none.
func stateOf(n int) state {
	if errors.Is(protowire.ParseError(n), io.ErrUnexpectedEOF) {
		return short
	}
	return bad
}
