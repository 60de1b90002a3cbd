package observe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/signals"
)

// Server is one API server's metrics.
type Server struct {
	// Name is for messages, URL of its metrics.
	Name, URL string
	Client    *http.Client
}

// Flow measures by a flow schema that only the component's requests match, with a priority level of its own. Every API server
// must be named: what one answers that is not asked is missing.
type Flow struct {
	Servers []Server
	// Schema and Level are the names of the two.
	Schema, Level string
}

// flowMark is a reading of each API server.
type flowMark struct {
	servers  []Server
	readings []signals.OwnFlow
}

// Mark implements Meter.
func (f *Flow) Mark(ctx context.Context) (Mark, error) {
	if len(f.Servers) == 0 {
		return nil, errors.New("there is no API server to read")
	}
	m := &flowMark{servers: f.Servers, readings: make([]signals.OwnFlow, len(f.Servers))}
	errs := make([]error, len(f.Servers))
	var all sync.WaitGroup
	for i, s := range f.Servers {
		all.Go(func() { m.readings[i], errs[i] = s.read(ctx, f.Schema, f.Level) })
	}
	all.Wait()
	return m, errors.Join(errs...)
}

func (s *Server) read(ctx context.Context, schema, level string) (signals.OwnFlow, error) {
	var reading signals.OwnFlow
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err == nil {
		err = s.do(request, func(response *http.Response) (err error) {
			reading, err = signals.ReadOwnFlow(response.Body, time.Now(), schema, level)
			return err
		})
	}
	if err != nil {
		return signals.OwnFlow{}, fmt.Errorf("reading the metrics of %s: %w", s.Name, err)
	}
	return reading, nil
}

// Taken implements Mark.
func (m *flowMark) Taken() time.Time { return m.readings[0].Read }

// busyElse is which share of all requests must have been refused to others for a window to be disturbed: a client that somebody
// jailed, or one that asks too often, is refused all day long.
const busyElse = 0.05

// full is which part of its level a component must have taken, on average, for refusals in it to be its own doing.
const full = 0.5

// Since implements Mark.
func (m *flowMark) Since(earlier Mark) (Cost, error) {
	before, ok := earlier.(*flowMark)
	if !ok || len(before.readings) != len(m.readings) {
		return Cost{}, errors.New("the API servers are not the same ones")
	}
	var requests, seats, refused, elsewhere, all, cpu, memory, watches, limit float64
	seconds := m.Taken().Sub(before.Taken()).Seconds()
	if seconds <= 0 {
		return Cost{}, errors.New("no time has passed")
	}
	for i := range m.readings {
		now, then := &m.readings[i], &before.readings[i]
		c := now.Since(*then)
		if c.Restarted {
			return Cost{}, fmt.Errorf("%s began anew", m.servers[i].Name)
		}
		requests += c.Dispatched
		seats += c.SeatSeconds
		refused += c.Refused
		elsewhere += c.RefusedElse
		all += c.Requests
		cpu += c.CPU()
		memory += now.ResidentBytes
		limit += now.Limit
		for _, n := range now.Watches {
			watches += n
		}
	}
	cost := Cost{
		Own:    map[forecast.Kind]float64{forecast.Seats: seats / seconds, forecast.Requests: requests / seconds},
		Server: map[forecast.Kind]float64{forecast.CPU: cpu, forecast.Memory: memory, forecast.Watches: watches},
	}
	switch {
	case refused > 0 && seats/seconds >= full*limit:
		cost.Censored = forecast.ByItself
	case refused > 0, elsewhere > busyElse*all:
		cost.Censored = forecast.ByOthers
	}
	return cost, nil
}
