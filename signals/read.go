package signals

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// The metrics read, all of them stable or long-lived in Kubernetes 1.28–1.36.
const (
	cpuSeconds     = "process_cpu_seconds_total"
	residentBytes  = "process_resident_memory_bytes"
	startSeconds   = "process_start_time_seconds"
	inFlight       = "apiserver_current_inflight_requests"
	queued         = "apiserver_flowcontrol_current_inqueue_requests"
	executingSeats = "apiserver_flowcontrol_current_executing_seats"
	requestTotal   = "apiserver_request_total"
	rejectedTotal  = "apiserver_flowcontrol_rejected_requests_total"
)

// maxBytes bounds what is kept of an answer: the wanted lines of a busy API server are some 200 KB.
const maxBytes = 8 << 20

// Read reads an API server's /metrics in the Prometheus text format. An API server shows 3–20 MB of metrics, nearly all
// histograms; only the wanted families reach the parser, because reading must stay cheap where it runs every second
// beside a control plane that has no processor left.
func Read(r io.Reader, now time.Time) (APIServer, error) {
	families, err := parse(r, serverMetrics...)
	if err != nil {
		return APIServer{}, err
	}
	return serverOf(families, now)
}

// serverMetrics are the families an APIServer is made from.
var serverMetrics = []string{cpuSeconds, residentBytes, startSeconds, inFlight, queued, executingSeats, requestTotal, rejectedTotal}

func serverOf(families map[string]*dto.MetricFamily, now time.Time) (APIServer, error) {
	for _, name := range []string{cpuSeconds, residentBytes, inFlight} {
		if len(families[name].GetMetric()) == 0 {
			return APIServer{}, &MissingError{Metric: name}
		}
	}
	return APIServer{
		Read:             now,
		Started:          startOf(families),
		CPUSeconds:       sum(families[cpuSeconds], nil),
		ResidentBytes:    sum(families[residentBytes], nil),
		InFlightReadOnly: sum(families[inFlight], label("request_kind", "readOnly")),
		InFlightMutating: sum(families[inFlight], label("request_kind", "mutating")),
		QueuedRequests:   sum(families[queued], nil),
		ExecutingSeats:   sum(families[executingSeats], nil),
		Requests:         sum(families[requestTotal], nil),
		Lists:            sum(families[requestTotal], label("verb", "LIST")),
		TooMany:          sum(families[requestTotal], label("code", "429")),
		Rejected:         sum(families[rejectedTotal], nil),
	}, nil
}

// pick keeps the lines of the wanted families.
func pick(r io.Reader, wanted map[string]bool) ([]byte, error) {
	var kept bytes.Buffer
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		whole := line
		if err == bufio.ErrBufferFull && isWanted(line, wanted) {
			return nil, fmt.Errorf("reading metrics: a line is longer than %d bytes", 64<<10)
		}
		for err == bufio.ErrBufferFull { // the rest of a long line that nobody wants
			_, err = lines.ReadSlice('\n')
			whole = nil
		}
		if isWanted(whole, wanted) {
			kept.Write(whole)
			if err == io.EOF {
				kept.WriteByte('\n')
			}
		}
		if kept.Len() > maxBytes {
			return nil, fmt.Errorf("reading metrics: more than %d bytes of the wanted metrics", maxBytes)
		}
		switch err {
		case nil:
		case io.EOF:
			return kept.Bytes(), nil
		default:
			return nil, fmt.Errorf("reading metrics: %w", err)
		}
	}
}

// isWanted is whether a line is of a wanted family. Most lines are not, and this is all that is done about those.
func isWanted(line []byte, wanted map[string]bool) bool {
	if len(line) > 0 && line[0] == '#' {
		for _, prefix := range []string{"# TYPE ", "# HELP "} {
			if rest, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
				line = rest
				break
			}
		}
	}
	// The longest wanted name is far shorter than this.
	head := line[:min(len(line), 128)]
	for i, c := range head {
		if c == '{' || c == ' ' || c == '\t' || c == '\n' {
			return wanted[string(head[:i])]
		}
	}
	return len(head) == len(line) && wanted[string(line)]
}

// label selects the metrics with this label value.
func label(name, value string) func(*dto.Metric) bool {
	return func(m *dto.Metric) bool {
		for _, l := range m.GetLabel() {
			if l.GetName() == name {
				return l.GetValue() == value
			}
		}
		return false
	}
}

// sum adds the finite values of a family's selected metrics.
func sum(family *dto.MetricFamily, selected func(*dto.Metric) bool) float64 {
	var total float64
	for _, m := range family.GetMetric() {
		if selected != nil && !selected(m) {
			continue
		}
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			total += v
		}
	}
	return total
}
