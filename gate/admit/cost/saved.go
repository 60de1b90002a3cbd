package cost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

const (
	// savedVersion is the version of the saved form. Another one is not read: what was learned is learned again.
	savedVersion = 1
	// mostSaved bounds what Restore reads, in bytes. The most and longest shapes are less.
	mostSaved = 16 << 20
)

// saved is what Marshal writes.
type saved struct {
	Version int          `json:"version"`
	Shapes  []savedShape `json:"shapes"` // the one not seen for longest first
}

type savedShape struct {
	Shape
	Seen    time.Time     `json:"seen"`
	Seconds *savedTracker `json:"seconds,omitempty"`
	Bytes   *savedTracker `json:"bytes,omitempty"`
}

type savedTracker struct {
	Median     float64 `json:"median"`
	Spread     float64 `json:"spread"`
	Samples    int64   `json:"samples"`
	Confidence int     `json:"confidence"`
}

// Marshal returns what was learned as JSON, to be kept and given to Restore. Objects, watchers and errors are not part of it.
func (m *Model) Marshal() ([]byte, error) {
	return json.Marshal(m.snapshot())
}

func (m *Model) snapshot() saved {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := saved{Version: savedVersion, Shapes: make([]savedShape, 0, m.table.recent.Len())}
	for at := m.table.recent.Back(); at != nil; at = at.Prev() {
		e := at.Value.(*entry)
		seconds := e.seconds
		if seconds.known() && e.congested {
			seconds.set(e.calm) // a start in quiet must not begin below it
		}
		out.Shapes = append(out.Shapes, savedShape{Shape: e.shape, Seen: e.seen.UTC(), Seconds: seconds.saved(), Bytes: e.bytes.saved()})
	}
	return out
}

// Restore takes what Marshal returned in place of what was learned. What is older than a day counts for less, by half for each
// day. On an error nothing is changed: data that is too big, not the JSON Marshal writes, of another version, or says what
// cannot be.
func (m *Model) Restore(data []byte, now time.Time) error {
	if len(data) > mostSaved {
		return fmt.Errorf("saved costs must be ≤ %d bytes, got %d", mostSaved, len(data))
	}
	var in saved
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return fmt.Errorf("decoding saved costs: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decoding saved costs: something follows them")
	}
	if in.Version != savedVersion {
		return fmt.Errorf("saved costs must be of version %d, got %d", savedVersion, in.Version)
	}
	if len(in.Shapes) > mostShapes {
		return fmt.Errorf("saved costs must have ≤ %d shapes, got %d", mostShapes, len(in.Shapes))
	}
	table := newTable(m.config.MaxShapes)
	there := make(map[Shape]bool, len(in.Shapes))
	for i := range in.Shapes {
		s := &in.Shapes[i]
		if err := s.check(); err != nil {
			return fmt.Errorf("shapes[%d]: %w", i, err)
		}
		if there[s.Shape] {
			return fmt.Errorf("shapes[%d]: it is there twice", i)
		}
		there[s.Shape] = true
		e := table.add(s.Shape)
		e.seconds, e.bytes = s.Seconds.tracker(), s.Bytes.tracker()
		e.calm = e.seconds.mean
		// What is from the future was saved by a clock that was wrong.
		if e.seen = s.Seen; e.seen.After(now) {
			e.seen = now
		}
		e.age(now)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = table
	return nil
}

func (t *tracker) saved() *savedTracker {
	if !t.known() {
		return nil
	}
	return &savedTracker{Median: t.value, Spread: t.spread, Samples: t.samples, Confidence: t.confidence}
}

func (s *savedTracker) tracker() tracker {
	if s == nil {
		return tracker{}
	}
	t := tracker{spread: s.Spread, samples: s.Samples, confidence: s.Confidence}
	t.set(math.Log(s.Median))
	return t
}

func (s *savedShape) check() error {
	if err := s.Shape.check(); err != nil {
		return err
	}
	if err := s.Seconds.check("seconds", leastSeconds, mostSeconds); err != nil {
		return err
	}
	return s.Bytes.check("bytes", leastBytes, mostBytes)
}

// check takes half a percent beyond the bounds: the logarithm of a bound is not its last word.
func (s *savedTracker) check(name string, least, most float64) error {
	const slack = 1.005
	switch {
	case s == nil:
		return nil
	case !(s.Median >= least/slack && s.Median <= most*slack):
		return fmt.Errorf("%s.median must be %v to %v, got %v", name, least, most, s.Median)
	case !(s.Spread >= 0 && s.Spread <= mostSpread):
		return fmt.Errorf("%s.spread must be 0 to %d, got %v", name, mostSpread, s.Spread)
	case s.Confidence < 1 || s.Confidence > mostConfidence:
		return fmt.Errorf("%s.confidence must be 1 to %d, got %d", name, mostConfidence, s.Confidence)
	case s.Samples < int64(s.Confidence) || s.Samples > mostSamples:
		return fmt.Errorf("%s.samples must be %d (its confidence) to %d, got %d", name, s.Confidence, int64(mostSamples), s.Samples)
	}
	return nil
}

// mostSpread is more than there can be between the least and the most bytes, in e-folds.
const mostSpread = 40

// check refuses what ShapeOf cannot have made of anything.
func (s *Shape) check() error {
	if !isVerb(s.Verb) {
		return fmt.Errorf("verb %q is none", s.Verb)
	}
	for _, n := range []struct {
		field, name string
		longest     int
	}{{"group", s.Group, longestGroup}, {"resource", s.Resource, longestResource}, {"subresource", s.Subresource, longestResource}} {
		if n.name != unknown && named(n.name, n.longest) == unknown {
			return fmt.Errorf("%s %q is none", n.field, n.name)
		}
	}
	switch s.Scope {
	case v1alpha1.ScopeObject, v1alpha1.ScopeNamespace, v1alpha1.ScopeCluster, v1alpha1.ScopeNonResource:
	default:
		return fmt.Errorf("scope %q is none", s.Scope)
	}
	if s.InitialEvents && s.Verb != "watch" {
		return fmt.Errorf("initialEvents of verb %q are none", s.Verb)
	}
	if s.Stream {
		return errors.New("nothing is learned of a stream")
	}
	return nil
}
