package breakglass

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seakeep/seakeep/gate/upstream"
)

// warmEvery is how often each API server is asked whether it lives. It keeps the lane's connection open, because an API
// server at 100 % CPU takes seconds for a TLS handshake and none for a connection it already has.
const (
	warmEvery   = 3 * time.Second
	warmTimeout = 5 * time.Second
)

// warmth keeps the connections to the API servers open and knows which of them answered last.
type warmth struct {
	servers []*upstream.Server
	up      []atomic.Bool
	metrics *metrics
	log     *slog.Logger
}

func newWarmth(servers []*upstream.Server, m *metrics, log *slog.Logger) *warmth {
	return &warmth{servers: servers, up: make([]atomic.Bool, len(servers)), metrics: m, log: log}
}

// run asks every API server until the context ends.
func (h *warmth) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range h.servers {
		wg.Go(func() { h.keep(ctx, i) })
	}
	wg.Wait()
}

func (h *warmth) keep(ctx context.Context, i int) {
	tick := time.NewTicker(warmEvery)
	defer tick.Stop()
	known := false
	for {
		err := h.ask(ctx, i)
		if ctx.Err() != nil {
			return
		}
		up := err == nil
		if was := h.up[i].Swap(up); was != up || !known {
			known = true
			if up {
				h.log.Info("API server answers", "upstream", h.servers[i].Name)
			} else {
				h.log.Warn("API server does not answer", "upstream", h.servers[i].Name, "reason", err)
			}
		}
		value := 0.0
		if up {
			value = 1
		}
		h.metrics.upstreamUp.WithLabelValues(h.servers[i].Name).Set(value)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *warmth) ask(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	return h.servers[i].Warm(ctx)
}

// localServer serves metrics and health in plain HTTP, on loopback.
func (s *Server) localServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	return &http.Server{Handler: mux, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes}
}

// readyz is ready when one API server answers and the audit file can be written.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	ready := false
	for i, server := range s.servers {
		up := s.warmth.up[i].Load()
		ready = ready || up
		fmt.Fprintf(&b, "%s upstream %s\n", mark(up), server.Name)
	}
	audit := !s.recorder.broken()
	fmt.Fprintf(&b, "%s audit\n", mark(audit))
	if !ready || !audit {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprint(w, b.String())
}

func mark(ok bool) string {
	if ok {
		return "[+]"
	}
	return "[-]"
}
