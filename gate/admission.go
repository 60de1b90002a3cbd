package gate

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/admit/cost"
	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/gate/flow"
)

// enter admits a request to the API servers. Both results are nil when its client left while it waited.
func (g *Gate) enter(ctx context.Context, f *flow.Request, r *http.Request) (*admit.Seats, *admit.Rejection) {
	if g.limits.Passthrough(time.Now()) {
		return &admit.Seats{}, nil
	}
	return g.admission.Enter(ctx, f, r)
}

// seated is the body of an answer that the gate reads for itself, with the seats it holds.
type seated struct {
	io.ReadCloser
	seats   *admit.Seats
	code    int
	sent    time.Time
	bytes   int64
	whole   bool
	gzip    bool
	release func()
}

func newSeated(response *http.Response, seats *admit.Seats, sent time.Time) *seated {
	s := &seated{ReadCloser: response.Body, seats: seats, code: response.StatusCode, sent: sent, gzip: response.Header.Get("Content-Encoding") == "gzip"}
	s.release = sync.OnceFunc(func() {
		seats.Done(admit.Outcome{
			Code: s.code, Upstream: time.Since(sent), Bytes: s.bytes, Gzip: s.gzip, Failed: !s.whole, TimedOut: s.code == http.StatusGatewayTimeout,
		})
	})
	return s
}

// Read implements io.Reader.
func (s *seated) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.bytes += int64(n)
	if err == io.EOF {
		s.whole = true
	}
	return n, err
}

// Close implements io.Closer.
func (s *seated) Close() error {
	s.release()
	return s.ReadCloser.Close()
}

// readings are what the API servers last said of themselves.
func (g *Gate) readings() []law.Server {
	var cpu, memory float64
	if o := g.rooms.Load().config.Overload; o != nil {
		if o.CPU != nil {
			cpu = o.CPU.AsApproximateFloat64()
		}
		if o.Memory != nil {
			memory = o.Memory.AsApproximateFloat64()
		}
	}
	loads := g.upstreams.Loads(time.Now())
	servers := make([]law.Server, len(loads))
	for i := range loads {
		servers[i] = loads[i].Evidence(cpu, memory)
	}
	return servers
}

// stored is how many objects there are, and how many watches are told of their changes: the most that any API server says,
// because one that was just started has not counted yet.
func (g *Gate) stored() (map[schema.GroupResource]cost.Objects, map[schema.GroupResource]int) {
	objects, watchers := map[schema.GroupResource]cost.Objects{}, map[schema.GroupResource]int{}
	for _, load := range g.upstreams.Loads(time.Now()) {
		if load.Last == nil {
			continue
		}
		for r, n := range load.Last.Objects {
			key := schema.GroupResource(r)
			if known := objects[key]; n >= float64(known.Count) {
				objects[key] = cost.Objects{Count: int64(n), AverageBytes: int64(load.Last.ObjectBytes[r] / max(1, n))}
			}
		}
		for r, n := range load.Last.Watches {
			key := schema.GroupResource(r)
			watchers[key] = max(watchers[key], int(n))
		}
	}
	return objects, watchers
}
