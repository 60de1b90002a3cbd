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

// Survey is what a cluster has, and what is taken of it.
type Survey struct {
	Nodes   int                      `json:"nodes"`
	Objects map[signals.Resource]int `json:"-"`
	// Processors and MemoryLimit are of all API servers together; the limit is 0 when their runtimes are told none.
	Processors  float64 `json:"processors"`
	MemoryLimit float64 `json:"memoryLimit,omitempty"`
	// Seats are the concurrency limits of all priority levels, 0 without API Priority and Fairness; SeatsTaken are executing.
	Seats      float64 `json:"seats,omitempty"`
	SeatsTaken float64 `json:"seatsTaken,omitempty"`
	// CPU and Memory are in use, by everybody.
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
}

// Look surveys a cluster: two readings of its API servers, some time apart, and nothing else.
func Look(ctx context.Context, servers []Server, apart time.Duration) (Survey, error) {
	first, err := loads(ctx, servers)
	if err != nil {
		return Survey{}, err
	}
	timer := time.NewTimer(apart)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return Survey{}, context.Cause(ctx)
	case <-timer.C:
	}
	second, err := loads(ctx, servers)
	if err != nil {
		return Survey{}, err
	}
	s := Survey{Objects: map[signals.Resource]int{}}
	for _, server := range servers {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err == nil {
			err = server.do(request, func(response *http.Response) error {
				about, err := signals.ReadAbout(response.Body)
				for _, seats := range about.Seats {
					s.Seats += seats
				}
				return err
			})
		}
		if err != nil {
			return Survey{}, fmt.Errorf("reading the metrics of %s: %w", server.Name, err)
		}
	}
	limited := true
	for i := range second {
		change := second[i].Since(first[i])
		if change.Restarted {
			return Survey{}, fmt.Errorf("%s began anew", servers[i].Name)
		}
		s.CPU += change.CPU()
		s.SeatsTaken += (first[i].ExecutingSeats + second[i].ExecutingSeats) / 2
		s.Memory += second[i].ResidentBytes
		s.Processors += second[i].Processors
		s.MemoryLimit += second[i].MemoryLimit
		limited = limited && second[i].MemoryLimit > 0
		for r, n := range second[i].Objects {
			s.Objects[r] = max(s.Objects[r], int(n))
		}
	}
	if !limited {
		s.MemoryLimit = 0
	}
	s.Nodes = s.Objects[signals.Resource{Resource: "nodes"}]
	return s, nil
}

func loads(ctx context.Context, servers []Server) ([]signals.Load, error) {
	if len(servers) == 0 {
		return nil, errors.New("there is no API server to read")
	}
	all, errs := make([]signals.Load, len(servers)), make([]error, len(servers))
	var group sync.WaitGroup
	for i, s := range servers {
		group.Go(func() {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
			if err == nil {
				err = s.do(request, func(response *http.Response) (err error) {
					all[i], err = signals.ReadLoad(response.Body, time.Now())
					return err
				})
			}
			if err != nil {
				errs[i] = fmt.Errorf("reading the metrics of %s: %w", s.Name, err)
			}
		})
	}
	group.Wait()
	return all, errors.Join(errs...)
}

func (s *Server) do(request *http.Request, read func(*http.Response) error) error {
	response, err := s.Client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return read(response)
}

// Room is what a component may come to take of the cluster: processors and memory as the API servers say themselves, and the
// seats of priority and fairness, whose number says what is let in and not what can be done: on 2024-12-11 it was far more than
// the API servers had processors for. own is what of the processors in use is the component's already. Memory is advisory: a
// heap breathes by more than a few nodes cost.
func (s Survey) Room(own float64) map[forecast.Kind]forecast.Room {
	rooms := map[forecast.Kind]forecast.Room{}
	if s.Processors > 0 {
		rooms[forecast.CPU] = forecast.Room{Capacity: s.Processors, Used: max(0, s.CPU-own)}
		// A request that does not wait keeps up to one processor busy.
		rooms[forecast.Service] = rooms[forecast.CPU]
	}
	if s.Seats > 0 {
		rooms[forecast.Seats] = forecast.Room{Capacity: s.Seats, Used: s.SeatsTaken}
	}
	if s.MemoryLimit > 0 {
		rooms[forecast.Memory] = forecast.Room{Capacity: s.MemoryLimit, Used: s.Memory, Advisory: true}
	}
	return rooms
}
