package cost

import (
	"math"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// What API Priority and Fairness counts with (k8s.io/apiserver/pkg/util/flowcontrol/request, Kubernetes 1.37).
const (
	bytesPerSeat   = 100_000
	objectsPerSeat = 100
	watchesPerSeat = 10
	// secondsPerSeat is for how long telling watchesPerSeat watchers of a write takes a seat.
	secondsPerSeat = 0.005
	// mostFinalSeats is the most a write holds while watchers are told.
	mostFinalSeats = 10
	// mostFromCache is what an answer from the watch cache takes at once, in bytes: it is sent object after object.
	mostFromCache = 1_000_000
)

// What is assumed of what nobody knows. It holds until the first answer.
const (
	// usualObject is the size of an object whose kind's size is not known, in bytes as stored.
	usualObject = 2_000
	// unknownCount is how many objects a kind has whose count is not known: five seats' worth. Kubernetes assumes the
	// least, because aggregated API servers do such work (kubernetes/kubernetes#109106); here the first answer says so.
	unknownCount = 250
	// unknownLimit is the size of a page after the first: what client-go asks for.
	unknownLimit = 500
	// The time of a request is a part of its own and one for each byte: orders of magnitude, on one processor.
	secondsOfRead  = 0.005
	secondsOfWrite = 0.010
	secondsPerByte = 1.0 / 50e6
	// fixedSeconds is the part of a measured time that does not grow with the answer.
	fixedSeconds = 0.002
	// gzipRatio is how much an answer is compressed whose size before is not known.
	gzipRatio = 6
	// mostBytes and mostSeconds bound every number: 1 TiB, an hour.
	mostBytes   = 1 << 40
	mostSeconds = 3600
)

// Objects is what is known of the objects of a kind, from the API servers' metrics.
type Objects struct {
	// Count is how many there are (apiserver_storage_objects, apiserver_resource_objects); negative: not known.
	Count int64
	// AverageBytes is the size of one as etcd stores it (apiserver_resource_size_estimate_bytes over the count); 0: not
	// known.
	AverageBytes int64
}

// guess is what a shape is expected to cost that was never seen, nor its like.
type guess struct {
	seats          int
	seconds, bytes float64
}

// prior follows API Priority and Fairness's own rules where it has some: one seat, and for collections one for each 100 KB of
// the objects as stored, or for each 100 objects where their size is not known. What it does not look at narrows the guess
// further: the namespace, and from the cache the selectors.
func (m *Model) prior(s *Shape) guess {
	o, ok := m.objects[schema.GroupResource{Group: s.Group, Resource: s.Resource}]
	if !ok {
		o = Objects{Count: unknownCount, AverageBytes: usualObject}
	}
	size := float64(o.AverageBytes)
	if size <= 0 {
		size = usualObject
	}
	size = min(size, mostBytes) * s.inflation()
	switch {
	case s.writes():
		return guess{seats: 1, seconds: secondsOfWrite, bytes: size}
	case !s.Encodes():
		return guess{seats: 1, seconds: secondsOfRead, bytes: size}
	}
	stored, matching := m.narrow(s, float64(o.Count))
	limit := s.mostObjects()
	bytes := min(math.Ceil(min(limit, matching))*size, mostBytes)
	g := guess{seconds: secondsOfRead + bytes*secondsPerByte, bytes: bytes}
	switch {
	case s.Selector == ByName:
		stored, limit = 1, 1
	case s.fromCache():
		stored = matching
	}
	if o.AverageBytes > 0 {
		g.seats = m.seatsBySize(s, stored, limit, float64(o.AverageBytes))
	} else {
		g.seats = m.seatsByCount(s, stored, limit)
	}
	return g
}

// seatsBySize is SizeBasedListCostEstimate (Kubernetes 1.34).
func (m *Model) seatsBySize(s *Shape, stored, limit, size float64) int {
	loaded := min(stored, limit)
	if !s.fromCache() && s.Selector > ByName {
		loaded = max(loaded, math.Floor(stored/2))
	}
	return m.seats(s, loaded*size)
}

// seatsByCount is what Kubernetes counts without sizes, and did before 1.34.
func (m *Model) seatsByCount(s *Shape, stored, limit float64) int {
	processed := stored
	switch {
	case s.Selector == ByName, s.fromCache():
	case s.Selector != NoSelector:
		processed = stored + min(stored, limit)
	default:
		processed = 2 * min(stored, limit)
	}
	return m.clamp(processed / objectsPerSeat)
}

// seats is one for each 100 KB that are in memory at once. A median went through its logarithm: it is rounded before the last
// byte of it takes a seat.
func (m *Model) seats(s *Shape, bytes float64) int {
	bytes = math.Round(bytes)
	if s.fromCache() {
		bytes = min(bytes, mostFromCache)
	}
	return m.clamp(bytes / bytesPerSeat)
}

func (m *Model) clamp(seats float64) int {
	return int(max(1, min(math.Ceil(seats), float64(m.config.MaxSeats))))
}

// narrow says how many of a kind's objects the request's part of the cluster has, and how many of these are selected.
// Namespaces differ much in size and big ones are listed more, hence the root. Labels and fields say nothing of how many
// they select: a part that errs on the side of caution.
func (m *Model) narrow(s *Shape, count float64) (stored, matching float64) {
	if s.Scope == v1alpha1.ScopeNamespace {
		count /= math.Sqrt(max(1, m.count("namespaces", 16)))
	}
	switch s.Selector {
	case ByName:
		return count, 1
	case ByNode:
		return count, count / max(1, m.count("nodes", 10))
	case ByField:
		return count, count / 2
	case ByLabel, ByBoth:
		return count, count / 4
	}
	return count, count
}

func (m *Model) count(resource string, otherwise float64) float64 {
	if o, ok := m.objects[schema.GroupResource{Resource: resource}]; ok {
		return float64(o.Count)
	}
	return otherwise
}

// mostObjects is how many objects the answer may have.
func (s *Shape) mostObjects() float64 {
	switch s.Limit {
	case UpTo50:
		return 50
	case UpTo500:
		return 500
	case Continued:
		return unknownLimit
	}
	return math.Inf(1)
}

// relative is the size of an answer in each form against JSON. Protobuf is a third of it; a Table has the objects' metadata in
// its rows.
var relative = [medias]float64{JSON: 1, Protobuf: 1. / 3, CBOR: 0.85, Table: 0.5, Metadata: 0.4, MetadataProtobuf: 0.15, OtherMedia: 1}

// relativeSize is the size of the shape's answer against JSON. Custom resources exist in JSON and CBOR only: who asks for
// protobuf gets JSON, but for their metadata.
func (s *Shape) relativeSize() float64 {
	if s.Media == Protobuf && !s.builtIn() {
		return 1
	}
	if int(s.Media) >= len(relative) {
		return 1
	}
	return relative[s.Media]
}

// inflation is the size of the shape's answer against what is stored: protobuf, or JSON for custom resources.
func (s *Shape) inflation() float64 {
	if s.builtIn() {
		return s.relativeSize() / relative[Protobuf]
	}
	return s.relativeSize()
}

// builtIn tells Kubernetes' own kinds by their group: none, without a dot, or below k8s.io.
func (s *Shape) builtIn() bool {
	return !strings.Contains(s.Group, ".") || strings.HasSuffix(s.Group, ".k8s.io")
}

// scaled is a time of an answer that became ratio times as big.
func scaled(seconds, ratio float64) float64 {
	if seconds <= fixedSeconds {
		return seconds
	}
	return min(fixedSeconds+(seconds-fixedSeconds)*ratio, mostSeconds)
}
