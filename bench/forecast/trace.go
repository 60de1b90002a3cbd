package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seakeep/seakeep/forecast/observe"
)

// trace is a component's requests in a lab, as its audit log has them: a header in JSON, then a line for each request with the
// microseconds since the beginning, the node, the microseconds it took, and the status.
type trace struct {
	header
	requests []observe.Request
}

type header struct {
	Variation variation `json:"variation"`
	Nodes     int       `json:"nodes"`
	// Phases are the steps it was held on.
	Phases []phase `json:"phases"`
}

// phase is a time of one exposure, from the trace's beginning.
type phase struct {
	Exposed  int           `json:"exposed"`
	From, To time.Duration `json:"-"`
	FromMS   int64         `json:"fromMillis"`
	ToMS     int64         `json:"toMillis"`
}

// begin is where a trace's time is put.
var begin = time.Unix(0, 0).UTC()

func (t *trace) write(dir string) error {
	var b bytes.Buffer
	head, err := json.Marshal(t.header)
	if err != nil {
		return err
	}
	zipped := gzip.NewWriter(&b)
	fmt.Fprintf(zipped, "%s\n", head)
	slices.SortFunc(t.requests, func(a, b observe.Request) int { return cmp.Compare(a.Start.UnixMicro(), b.Start.UnixMicro()) })
	for _, r := range t.requests {
		fmt.Fprintf(zipped, "%d %s %d %d\n", r.Start.Sub(begin).Microseconds(), r.From, r.Took.Microseconds(), r.Code)
	}
	if err := zipped.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, t.Variation.Name+".trace.gz"), b.Bytes(), 0o644)
}

// Bounds on a trace.
const (
	maxTraceBytes    = 64 << 20
	maxTraceRequests = 1 << 20
)

func readTrace(r io.Reader) (*trace, error) {
	unzipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("reading a trace: %w", err)
	}
	lines := bufio.NewScanner(io.LimitReader(unzipped, maxTraceBytes))
	lines.Buffer(nil, 64<<10)
	t := &trace{}
	for number := 1; lines.Scan(); number++ {
		if number == 1 {
			if err := json.Unmarshal(lines.Bytes(), &t.header); err != nil {
				return nil, fmt.Errorf("reading a trace's header: %w", err)
			}
			for i := range t.Phases {
				p := &t.Phases[i]
				p.From, p.To = time.Duration(p.FromMS)*time.Millisecond, time.Duration(p.ToMS)*time.Millisecond
				if p.To <= p.From || p.Exposed < 0 || p.Exposed > t.Nodes {
					return nil, fmt.Errorf("reading a trace's header: phase %d makes no sense", i)
				}
			}
			continue
		}
		fields := strings.Fields(lines.Text())
		if len(fields) != 4 || len(t.requests) == maxTraceRequests {
			return nil, fmt.Errorf("reading a trace, line %d: it must be four fields, and one of %d at most", number, maxTraceRequests)
		}
		var numbers [3]int64
		for i, text := range []string{fields[0], fields[2], fields[3]} {
			if numbers[i], err = strconv.ParseInt(text, 10, 42); err != nil || numbers[i] < 0 {
				return nil, fmt.Errorf("reading a trace, line %d: %q is no number ≥ 0", number, text)
			}
		}
		t.requests = append(t.requests, observe.Request{
			Start: begin.Add(time.Duration(numbers[0]) * time.Microsecond), From: fields[1],
			Took: time.Duration(numbers[1]) * time.Microsecond, Code: int(numbers[2]), Seats: 1,
		})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading a trace: %w", err)
	}
	if t.Nodes < 1 || len(t.Phases) == 0 {
		return nil, fmt.Errorf("reading a trace: it has no header")
	}
	return t, nil
}

func readTraces(dir string) ([]*trace, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.trace.gz"))
	if err != nil {
		return nil, err
	}
	var all []*trace
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("opening a trace: %w", err)
		}
		t, err := readTrace(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, t)
	}
	return all, nil
}
