package apf

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/signals"
)

// Level says how many seats all API servers together can take now. It is asked by one goroutine, every few seconds, and must
// honour the context. An error is no evidence: the seats then stay as they are for a while, and grow after it.
type Level interface {
	Level(ctx context.Context) (seats float64, err error)
}

// bounded is a Level that wants to know, before it is asked, the fewest and the most seats of one API server that everyone else
// can have, and how many API servers there are.
type bounded interface {
	Bound(least, full, count int)
}

// Fixed is a number somebody chose.
type Fixed float64

// Level implements Level.
func (f Fixed) Level(context.Context) (float64, error) { return float64(f), nil }

// gateLimit is the metric of a gate that says how much it lets through.
const gateLimit = "seakeep_gate_admit_limit_seats"

// Endpoint is a server's metrics.
type Endpoint struct {
	// Name is for messages.
	Name string
	// URL of the metrics.
	URL    string
	Client *http.Client
}

// read hands the body of the answer to parse.
func (e Endpoint) read(ctx context.Context, parse func(io.Reader) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return fmt.Errorf("reading the metrics of %s: %w", e.Name, err)
	}
	response, err := e.Client.Do(request)
	if err != nil {
		return fmt.Errorf("reading the metrics of %s: %w", e.Name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reading the metrics of %s: it answers %s", e.Name, response.Status)
	}
	if err := parse(response.Body); err != nil {
		return fmt.Errorf("reading the metrics of %s: %w", e.Name, err)
	}
	return nil
}

// Gates follows the limits of gates: together they let through the sum. When one cannot be read the sum is not known.
type Gates []Endpoint

// Level implements Level.
func (g Gates) Level(ctx context.Context) (float64, error) {
	total := 0.0
	for _, gate := range g {
		if err := gate.read(ctx, func(r io.Reader) error {
			seats, err := parseLimit(r)
			total += seats
			return err
		}); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// maxLimitLines bounds what is kept of a gate's answer; the metric has one line.
const maxLimitLines = 1000

// parseLimit adds up the lines of the gate's limit in the Prometheus text format.
func parseLimit(r io.Reader) (float64, error) {
	var kept bytes.Buffer
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 0; lines.Scan(); {
		line := lines.Bytes()
		rest, ok := bytes.CutPrefix(line, []byte(gateLimit))
		if !ok || len(rest) == 0 || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		if n++; n > maxLimitLines {
			return 0, fmt.Errorf("%s has more than %d lines", gateLimit, maxLimitLines)
		}
		kept.Write(line)
		kept.WriteByte('\n')
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&kept)
	if err != nil {
		return 0, err
	}
	metrics := families[gateLimit].GetMetric()
	if len(metrics) == 0 {
		return 0, fmt.Errorf("there is no %s: not a gate's, or admission is off", gateLimit)
	}
	total := 0.0
	for _, m := range metrics {
		total += m.GetUntyped().GetValue()
	}
	if !(total >= 0) || math.IsInf(total, 0) {
		return 0, fmt.Errorf("%s is %v", gateLimit, total)
	}
	return total, nil
}

// Servers are the API servers' metrics.
type Servers []Endpoint

// Seats reads how many seats an API server has; levels are those in force, the ballast among them.
func (s Servers) Seats(ctx context.Context, levels []plan.Level) (seats plan.Seats, err error) {
	for _, server := range s {
		limits, err := server.Limits(ctx)
		if err != nil {
			return plan.Seats{}, err
		}
		if limits == nil {
			return plan.Seats{}, fmt.Errorf("%s has no limits of priority levels: API Priority and Fairness is off", server.Name)
		}
		one, err := plan.Infer(levels, limits)
		if err != nil {
			return plan.Seats{}, fmt.Errorf("%s: %w", server.Name, err)
		}
		seats = seats.With(one)
	}
	return seats, nil
}

// Limits reads an API server's nominal limits by level. Those of levels that were deleted are among them.
func (e Endpoint) Limits(ctx context.Context) (seats map[string]float64, err error) {
	err = e.read(ctx, func(r io.Reader) error {
		about, err := signals.ReadAbout(r)
		seats = about.Seats
		return err
	})
	return seats, err
}

// Signals follows what the API servers use of their processors and memory; see plan.Law.
type Signals struct {
	Servers Servers
	// CPU and Memory are what each API server has: cores and bytes; 0 is not looked at.
	CPU, Memory float64

	least, full, count int
	law                plan.Law
	earlier            []signals.APIServer
}

// Bound implements bounded.
func (s *Signals) Bound(least, full, count int) { s.least, s.full, s.count = least, full, count }

// Level implements Level. The first call has nothing to compare with, and fails.
func (s *Signals) Level(ctx context.Context) (float64, error) {
	readings, errs := make([]signals.APIServer, len(s.Servers)), make([]error, len(s.Servers))
	var all sync.WaitGroup
	for i, server := range s.Servers {
		all.Go(func() {
			errs[i] = server.read(ctx, func(r io.Reader) (err error) {
				readings[i], err = signals.Read(r, time.Now())
				return err
			})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	earlier := s.earlier
	s.earlier = readings
	if earlier == nil {
		return 0, errors.New("the API servers were read once; it takes two readings to see what they use")
	}
	loads := make([]plan.Load, len(readings))
	for i, reading := range readings {
		change := reading.Since(earlier[i])
		if change.Restarted {
			// What the dead process used is lost, and why it died is not known: no reason to give it more.
			return 0, fmt.Errorf("%s has restarted", s.Servers[i].Name)
		}
		if s.CPU > 0 {
			loads[i].CPU = change.CPU() / s.CPU
		}
		if s.Memory > 0 {
			loads[i].Memory = reading.ResidentBytes / s.Memory
		}
	}
	return s.law.Next(loads, s.least, s.full) * float64(s.count), nil
}
