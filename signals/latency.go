package signals

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"
)

// RequestClass is a kind of request that takes about as long as others of its kind.
type RequestClass string

// The classes, by which Kubernetes' own objectives are stated: GETs of one object, LISTs, and writes. Streams are in none.
const (
	ClassRead  RequestClass = "read"
	ClassList  RequestClass = "list"
	ClassWrite RequestClass = "write"
)

// RequestClasses are all of them.
var RequestClasses = []RequestClass{ClassRead, ClassList, ClassWrite}

// classes says which class a verb of the metrics is in.
var classes = map[string]RequestClass{
	"GET": ClassRead, "LIST": ClassList,
	"POST": ClassWrite, "PUT": ClassWrite, "PATCH": ClassWrite, "APPLY": ClassWrite, "DELETE": ClassWrite, "DELETECOLLECTION": ClassWrite,
}

// durationBucket counts requests by how long they took as the client saw it, from when the request was received: waiting in
// priority and fairness and in webhooks is in it, which apiserver_request_sli_duration_seconds leaves out.
const durationBucket = "apiserver_request_duration_seconds_bucket"

// streams are subresources that stay open for as long as somebody looks.
var streams = []string{"exec", "attach", "portforward", "log", "proxy"}

// maxBounds is how many upper bounds a histogram may have; Kubernetes' have 25.
const maxBounds = 200

// Histogram counts values by upper bound, in seconds; the last is +Inf. Counts are cumulative, as Prometheus' are.
type Histogram struct {
	Bounds, Counts []float64
}

// Latencies are how long one API server's requests took since it started.
type Latencies struct {
	Read, Started time.Time
	Classes       map[RequestClass]Histogram
}

// ReadLatencies reads an API server's /metrics in the Prometheus text format. The histogram has a series for each verb, resource
// and scope with 25 lines each, 6 MB on a busy server: the lines are added up as they pass and none is kept.
func ReadLatencies(r io.Reader, now time.Time) (Latencies, error) {
	l := Latencies{Read: now, Classes: map[RequestClass]Histogram{}}
	counts := map[RequestClass]map[float64]float64{}
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil, err == io.EOF:
		case err == bufio.ErrBufferFull:
			if bytes.HasPrefix(line, []byte(durationBucket)) {
				return Latencies{}, fmt.Errorf("reading metrics: a line is longer than %d bytes", 64<<10)
			}
			line = nil
			for err == bufio.ErrBufferFull {
				_, err = lines.ReadSlice('\n')
			}
		}
		if err != nil && err != io.EOF {
			return Latencies{}, fmt.Errorf("reading metrics: %w", err)
		}
		if rest, ok := bytes.CutPrefix(line, []byte(durationBucket+"{")); ok {
			if err := addBucket(rest, counts); err != nil {
				return Latencies{}, err
			}
		} else if rest, ok := bytes.CutPrefix(line, []byte(startSeconds+" ")); ok {
			if s, err := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64); err == nil && s > 0 && s < math.MaxInt32 {
				l.Started = time.Unix(0, int64(s*float64(time.Second)))
			}
		}
		if err == io.EOF {
			break
		}
	}
	if len(counts) == 0 {
		return Latencies{}, &MissingError{Metric: durationBucket}
	}
	for class, byBound := range counts {
		var h Histogram
		for bound := range byBound {
			h.Bounds = append(h.Bounds, bound)
		}
		slices.Sort(h.Bounds)
		for _, bound := range h.Bounds {
			h.Counts = append(h.Counts, byBound[bound])
		}
		l.Classes[class] = h
	}
	return l, nil
}

// addBucket adds one line, from after the brace on.
func addBucket(line []byte, counts map[RequestClass]map[float64]float64) error {
	class, bound := RequestClass(""), math.NaN()
	for {
		name, rest, ok := bytes.Cut(line, []byte(`="`))
		if !ok {
			return nil // no line of ours
		}
		end := closing(rest)
		if end < 0 {
			return nil
		}
		value := rest[:end]
		switch string(bytes.TrimLeft(name, ", ")) {
		case "verb":
			class = classes[string(value)]
		case "subresource":
			if slices.Contains(streams, string(value)) {
				return nil
			}
		case "le":
			b, err := strconv.ParseFloat(string(value), 64)
			if err != nil || math.IsNaN(b) {
				return nil
			}
			bound = b
		}
		line = rest[end+1:]
		if len(line) > 0 && line[0] == '}' {
			line = line[1:]
			break
		}
	}
	fields := bytes.Fields(line)
	if class == "" || math.IsNaN(bound) || len(fields) == 0 {
		return nil
	}
	v, err := strconv.ParseFloat(string(fields[0]), 64)
	if err != nil || !(v >= 0 && v < 1<<53) {
		return nil
	}
	if counts[class] == nil {
		counts[class] = map[float64]float64{}
	}
	if _, seen := counts[class][bound]; !seen && len(counts[class]) >= maxBounds {
		return fmt.Errorf("reading metrics: %s has more than %d bounds", durationBucket, maxBounds)
	}
	counts[class][bound] += v
	return nil
}

// closing is where the quoted value ends.
func closing(quoted []byte) int {
	for i := 0; i < len(quoted); i++ {
		switch quoted[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// Since returns how long the requests took that were answered since an earlier reading of the same API server; of one that was
// restarted in between, since its start.
func (l Latencies) Since(earlier Latencies) map[RequestClass]Histogram {
	if math.Abs(l.Started.Sub(earlier.Started).Seconds()) > 1 {
		return l.Classes
	}
	change := map[RequestClass]Histogram{}
	for class, h := range l.Classes {
		before, ok := earlier.Classes[class]
		d := Histogram{Bounds: h.Bounds, Counts: slices.Clone(h.Counts)}
		if ok && slices.Equal(before.Bounds, h.Bounds) {
			for i := range d.Counts {
				d.Counts[i] = max(0, d.Counts[i]-before.Counts[i])
			}
		}
		change[class] = d
	}
	return change
}

// Total is how many values there are.
func (h Histogram) Total() float64 {
	if len(h.Counts) == 0 {
		return 0
	}
	return h.Counts[len(h.Counts)-1]
}

// Plus adds two histograms with the same bounds, as two API servers of one version have; with others the larger is returned.
func (h Histogram) Plus(other Histogram) Histogram {
	if len(h.Counts) == 0 || !slices.Equal(h.Bounds, other.Bounds) {
		if other.Total() > h.Total() {
			return other
		}
		return h
	}
	sum := Histogram{Bounds: h.Bounds, Counts: slices.Clone(h.Counts)}
	for i := range sum.Counts {
		sum.Counts[i] += other.Counts[i]
	}
	return sum
}

// Quantile is the value, in seconds, below which the share q lies, straight between two bounds; what lies above the last bound
// is that bound. ok is false when there are no values.
func (h Histogram) Quantile(q float64) (seconds float64, ok bool) {
	total := h.Total()
	if total <= 0 || len(h.Bounds) < 2 {
		return 0, false
	}
	want := q * total
	low, below := 0.0, 0.0
	for i, bound := range h.Bounds {
		n := max(h.Counts[i], below)
		if n >= want && n > below {
			if math.IsInf(bound, 1) {
				return max(0, low), true
			}
			return max(0, low+(bound-low)*(want-below)/(n-below)), true
		}
		low, below = bound, n
	}
	return max(0, low), !math.IsInf(low, 0)
}
