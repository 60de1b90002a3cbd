package cost

import (
	"fmt"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Shape is what two requests have in common that cost the same: what they ask for and in which form, without names,
// namespaces and the selectors' values. Shapes are comparable. Those of ShapeOf have strings of at most 253 bytes, which may
// be parts of the request they came from: a Model that keeps a shape copies them.
type Shape struct {
	// Verb is the Kubernetes verb, or the lower-case HTTP method of a non-resource request; "other" for what is neither.
	Verb string `json:"verb"`
	// Group, Resource and Subresource are as in flow.Request. The Resource of a non-resource request is the first segment
	// of its path, with the slash. A name that no API can have is "(unknown)".
	Group       string `json:"group,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	// Scope is how much of the cluster the request covers.
	Scope v1alpha1.RequestScope `json:"scope"`
	// Selector is by what a collection is narrowed.
	Selector Selector `json:"selector,omitzero"`
	// Media is the form the client likes best; the answer may be in another one where the server does not know it.
	Media Media `json:"media,omitzero"`
	// Gzip is true when the API server may compress the answer.
	Gzip bool `json:"gzip,omitempty"`
	// Limit is how many objects the client wants at once.
	Limit Limit `json:"limit,omitzero"`
	// Version is how recent the answer must be.
	Version Version `json:"version,omitzero"`
	// InitialEvents is true for a watch that first sends what exists.
	InitialEvents bool `json:"initialEvents,omitempty"`
	// Stream is true for what has no end of its own (a watch from now on, exec, a log): its time and its bytes say
	// nothing of its cost. A watch with initial events is none as far as it is measured, which is until they are sent.
	Stream bool `json:"stream,omitempty"`
}

// Encodes is true when the API server encodes a collection for the request: its seats follow the size of the answer.
func (s *Shape) Encodes() bool { return s.Verb == "list" || s.InitialEvents }

// writes is true for the verbs whose effect watchers are told; deletecollection is not among them in API Priority and
// Fairness either.
func (s *Shape) writes() bool {
	switch s.Verb {
	case "create", "update", "patch", "delete":
		return s.Scope != v1alpha1.ScopeNonResource
	}
	return false
}

// fromCache is true when the API server answers from its watch cache, which sends object after object, and not from etcd.
// LISTs for the most recent state come from the cache since Kubernetes 1.31 (KEP-2340).
func (s *Shape) fromCache() bool {
	return s.InitialEvents || s.Limit != Continued && s.Version != Exact
}

// Selector is by what a collection is narrowed.
type Selector uint8

// The selectors. A collection selected by name is one object, whatever else it is selected by.
const (
	NoSelector Selector = iota
	ByName              // metadata.name
	ByNode              // spec.nodeName, which pods have an index for
	ByField             // other fields
	ByLabel
	ByBoth // fields and labels
	selectors
)

// Media is the form of an answer.
type Media uint8

// The media types. The API server has no Table in protobuf.
const (
	JSON Media = iota
	Protobuf
	CBOR
	Table
	Metadata         // PartialObjectMetadata as JSON or CBOR
	MetadataProtobuf // PartialObjectMetadata as protobuf
	OtherMedia       // YAML, and what the API server does not know
	medias
)

// Limit is a class of the number of objects asked for at once.
type Limit uint8

// The limits.
const (
	NoLimit     Limit = iota
	UpTo50            // limit ≤ 50
	UpTo500           // limit ≤ 500, which is what client-go and kubectl ask for
	MoreThan500       // a larger one
	Continued         // a page after the first, of whatever size
	limits
)

// Version is how recent an answer must be, from resourceVersion and resourceVersionMatch.
type Version uint8

// The versions.
const (
	MostRecent   Version = iota // none: the most recent state
	Memory                      // "0": any
	NotOlderThan                // not older than a version
	Exact                       // one particular version: from etcd
	versions
)

var (
	selectorNames = [selectors]string{"none", "name", "node", "field", "label", "both"}
	mediaNames    = [medias]string{"json", "protobuf", "cbor", "table", "metadata", "metadata-protobuf", "other"}
	limitNames    = [limits]string{"none", "50", "500", "more", "continue"}
	versionNames  = [versions]string{"recent", "memory", "not-older", "exact"}
)

// The names are the ones in saved state.

// String implements fmt.Stringer.
func (s Selector) String() string { return name(selectorNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Selector) UnmarshalText(text []byte) error { return parse(selectorNames[:], text, s) }

// String implements fmt.Stringer.
func (m Media) String() string { return name(mediaNames[:], m) }

// MarshalText implements encoding.TextMarshaler.
func (m Media) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *Media) UnmarshalText(text []byte) error { return parse(mediaNames[:], text, m) }

// String implements fmt.Stringer.
func (l Limit) String() string { return name(limitNames[:], l) }

// MarshalText implements encoding.TextMarshaler.
func (l Limit) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Limit) UnmarshalText(text []byte) error { return parse(limitNames[:], text, l) }

// String implements fmt.Stringer.
func (v Version) String() string { return name(versionNames[:], v) }

// MarshalText implements encoding.TextMarshaler.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *Version) UnmarshalText(text []byte) error { return parse(versionNames[:], text, v) }

func name[T ~uint8](names []string, value T) string {
	if int(value) >= len(names) {
		return "?"
	}
	return names[value]
}

func parse[T ~uint8](names []string, text []byte, value *T) error {
	for i, name := range names {
		if name == string(text) {
			*value = T(i)
			return nil
		}
	}
	return fmt.Errorf("%q is none of %q", text, names)
}
