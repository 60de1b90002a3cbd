package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"mime"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Type is what an event of a watch says happened.
type Type byte

// The types of events; there are no others in the Kubernetes API.
const (
	Added Type = iota + 1
	Modified
	Deleted
	Bookmark
	Error
)

// String is the type as it is written in an event.
func (t Type) String() string {
	switch t {
	case Added:
		return "ADDED"
	case Modified:
		return "MODIFIED"
	case Deleted:
		return "DELETED"
	case Bookmark:
		return "BOOKMARK"
	case Error:
		return "ERROR"
	default:
		return fmt.Sprintf("Type(%d)", byte(t))
	}
}

func typeOf(name []byte) (Type, bool) {
	switch string(name) {
	case "ADDED":
		return Added, true
	case "MODIFIED":
		return Modified, true
	case "DELETED":
		return Deleted, true
	case "BOOKMARK":
		return Bookmark, true
	case "ERROR":
		return Error, true
	}
	return 0, false
}

// Frame is one event as it passes.
type Frame struct {
	// Bytes is the whole frame, its newline or length included. It is part of what was fed, or of the scanner's own
	// memory, and valid until the iteration goes on.
	Bytes []byte
	// End is where the frame ends in the stream, counted in bytes from the stream's beginning.
	End  int64
	Type Type
	// Version is the object's resourceVersion: of every event but an Error it is > 0, of an Error it is 0.
	Version uint64
	// InitialEventsEnd is true for the bookmark after the last initial event. Of a watch as Table it never is: there the
	// annotation is not on the table but inside of its row.
	InitialEventsEnd bool
	// Code is the HTTP status code an Error carries, 0 when it carries none.
	Code int
}

// Media types of streams that can be scanned.
const (
	JSON     = runtime.ContentTypeJSON
	Protobuf = runtime.ContentTypeProtobuf
)

// MaxFrame is the most bytes of one frame. An object is at most 1.5 MiB in etcd as shipped (--max-request-bytes); as JSON it
// may be some times that.
const MaxFrame = 16 << 20

// keepBuffer is the largest buffer for frames that came in parts which is kept for the next.
const keepBuffer = 64 << 10

// ErrTooLong is the error for a frame of more than MaxFrame bytes.
var ErrTooLong = fmt.Errorf("a frame of a watch must have ≤ %d bytes", MaxFrame)

var (
	errNoFrame = errors.New("not a frame of a watch")
	errVersion = errors.New("an event must have an object with a resourceVersion > 0")
)

var initialEventsEnd = []byte(metav1.InitialEventsAnnotationKey)

// Scanner finds the frames in the bytes of one watch. It is for one goroutine.
type Scanner struct {
	// ends says how many bytes of p complete the frame that begins with partial; 0: it goes on behind p.
	ends func(partial, p []byte) (int, error)
	json bool

	partial []byte // the beginning of a frame, or one that was yielded
	yielded bool   // partial was yielded
	offset  int64  // of the stream, behind the last whole frame
	failed  error
}

// NewScanner returns a scanner for a stream of the Content-Type, parameters included. Streams in other encodings (CBOR)
// are refused: they are not relayed.
func NewScanner(contentType string) (*Scanner, error) {
	switch mediaType(contentType) {
	case JSON:
		return &Scanner{ends: endOfLine, json: true}, nil
	case Protobuf:
		return &Scanner{ends: endOfLength}, nil
	}
	return nil, fmt.Errorf("a watch is scanned as %s or %s, got %q", JSON, Protobuf, contentType)
}

func mediaType(contentType string) string {
	if contentType == JSON || contentType == Protobuf {
		return contentType
	}
	name, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return name
}

// Frames yields the frames that are whole with p, which follows what was fed before, wherever that was split. Only the
// beginning of a frame that is not whole yet is copied. An error is yielded once, last, and again by every later call:
// nothing behind it can be understood. Breaking off the iteration loses the rest of p.
func (s *Scanner) Frames(p []byte) func(yield func(Frame, error) bool) {
	return func(yield func(Frame, error) bool) {
		if s.failed != nil {
			yield(Frame{}, s.failed)
			return
		}
		for len(p) > 0 {
			whole, rest, err := s.next(p)
			if err == nil && whole == nil {
				return
			}
			f := Frame{Bytes: whole, End: s.offset}
			switch {
			case err != nil:
			case s.json:
				err = parseJSON(&f)
			default:
				err = parseProtobuf(&f)
			}
			if err != nil {
				s.failed = fmt.Errorf("reading a watch at byte %d: %w", s.offset-int64(len(whole)), err)
				s.partial = nil
				yield(Frame{}, s.failed)
				return
			}
			if !yield(f, nil) {
				return
			}
			p = rest
		}
	}
}

// next returns the first whole frame and what follows it, or nil when all of p was put aside.
func (s *Scanner) next(p []byte) (whole, rest []byte, err error) {
	if s.yielded {
		s.partial, s.yielded = s.partial[:0], false
	}
	n, err := s.ends(s.partial, p)
	if err != nil {
		return nil, nil, err
	}
	part := p
	if n > 0 {
		part, rest = p[:n:n], p[n:]
	}
	if len(s.partial)+len(part) > MaxFrame {
		return nil, nil, ErrTooLong
	}
	if n > 0 && len(s.partial) == 0 {
		s.offset += int64(n)
		return part, rest, nil
	}
	s.partial = append(s.partial, part...)
	if n == 0 {
		return nil, nil, nil
	}
	whole = s.partial
	s.offset += int64(len(whole))
	s.yielded = true
	if cap(s.partial) > keepBuffer {
		s.partial = nil
	}
	return whole, rest, nil
}

// Pending is how many bytes of a frame that is not whole yet were fed. A stream that ends while it is not 0 was cut off.
func (s *Scanner) Pending() int {
	if s.yielded {
		return 0
	}
	return len(s.partial)
}

func endOfLine(_, p []byte) (int, error) { return bytes.IndexByte(p, '\n') + 1, nil }

func endOfLength(partial, p []byte) (int, error) {
	var size [4]byte
	if n := copy(size[:], partial); copy(size[n:], p) < len(size)-n {
		return 0, nil
	}
	length := binary.BigEndian.Uint32(size[:])
	if length > MaxFrame-4 {
		return 0, ErrTooLong
	}
	n := 4 + int(length) - len(partial)
	if n > len(p) {
		return 0, nil
	}
	return n, nil
}

// parseVersion reads a resourceVersion. They are compared as numbers (KEP-5504).
func parseVersion(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 || b[0] == '0' {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		d := uint64(c - '0')
		if d > 9 || v > (1<<64-1-d)/10 {
			return 0, false
		}
		v = v*10 + d
	}
	return v, true
}
