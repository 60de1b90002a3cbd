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
	limited := true
	for i := range second {
		change := second[i].Since(first[i])
		if change.Restarted {
			return Survey{}, fmt.Errorf("%s began anew", servers[i].Name)
		}
		s.CPU += change.CPU()
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

// Room is what a component may come to take of the cluster. A seat that executes keeps up to one processor busy, so that there
// are as many as processors, however many priority and fairness would let in: on 2024-12-11 that was far more than the API
// servers could do. own is what of the processors in use is the component's already.
func (s Survey) Room(own float64) map[forecast.Kind]forecast.Room {
	others := max(0, s.CPU-own)
	rooms := map[forecast.Kind]forecast.Room{}
	if s.Processors > 0 {
		rooms[forecast.Seats] = forecast.Room{Capacity: s.Processors, Used: others}
		rooms[forecast.CPU] = forecast.Room{Capacity: s.Processors, Used: others, Advisory: true}
	}
	if s.MemoryLimit > 0 {
		rooms[forecast.Memory] = forecast.Room{Capacity: s.MemoryLimit, Used: s.Memory, Advisory: true}
	}
	return rooms
}
