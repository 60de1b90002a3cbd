package drill

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/signals"
)

const (
	usageEvery   = time.Second
	signalsEvery = 2 * time.Second
	// scrapeTimeout ends a scrape of an API server that is overloaded; the next one is not held up by it.
	scrapeTimeout = 6 * time.Second
)

// ScrapeFunc reads an API server's own signals.
type ScrapeFunc func(ctx context.Context, server APIServer) (signals.APIServer, error)

// NewScraper returns a function that reads /metrics over connections of its own, and one that closes them.
func NewScraper() (ScrapeFunc, func()) {
	var mu sync.Mutex
	callers := map[string]*apicall.Caller{}
	caller := func(server APIServer) (*apicall.Caller, error) {
		mu.Lock()
		defer mu.Unlock()
		if c, ok := callers[server.Name]; ok {
			return c, nil
		}
		c, err := apicall.New(server.Config, "seakeep-drill/signals")
		if err == nil {
			callers[server.Name] = c
		}
		return c, err
	}
	scrape := func(ctx context.Context, server APIServer) (signals.APIServer, error) {
		c, err := caller(server)
		if err != nil {
			return signals.APIServer{}, err
		}
		code, body, err := c.Stream(ctx, "/metrics")
		if err != nil {
			return signals.APIServer{}, fmt.Errorf("scraping %s: %w", server.Name, err)
		}
		defer body.Close()
		if code != http.StatusOK {
			_, _ = io.Copy(io.Discard, io.LimitReader(body, 1<<20))
			return signals.APIServer{}, fmt.Errorf("scraping %s: answered %d", server.Name, code)
		}
		return signals.Read(body, time.Now())
	}
	return scrape, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range callers {
			c.Close()
		}
	}
}

// observeUsage asks the operating system what each component takes: it answers also when the component does not.
func (r *run) observeUsage(ctx context.Context) {
	ticker := time.NewTicker(usageEvery)
	defer ticker.Stop()
	for {
		r.recordUsage()
		select {
		case <-ctx.Done():
			r.recordUsage()
			return
		case <-ticker.C:
		}
	}
}

func (r *run) recordUsage() {
	at := r.now()
	var points []UsagePoint
	for _, c := range r.target.Components() {
		points = append(points, UsagePoint{At: at, Component: c.Name(), Usage: c.Usage()})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Usage = append(r.result.Usage, points...)
}

// observeSignals scrapes every API server, and once more at the very end, for the counters.
func (r *run) observeSignals(ctx context.Context) {
	var scrapes sync.WaitGroup
	defer scrapes.Wait()
	ticker := time.NewTicker(signalsEvery)
	defer ticker.Stop()
	for {
		for _, server := range r.target.APIServers() {
			scrapes.Go(func() { r.recordSignals(context.WithoutCancel(ctx), server) })
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func (r *run) recordSignals(ctx context.Context, server APIServer) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	point := SignalPoint{At: r.now(), Server: server.Name}
	reading, err := r.options.Scrape(ctx, server)
	if err != nil {
		point.Error = err.Error()
	} else {
		// The counters are those of the moment the answer was made, which under load is nearer to its end.
		point.At, point.Reading = r.now(), reading
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Signals = append(r.result.Signals, point)
}
