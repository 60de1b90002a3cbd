package gate

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seakeep/seakeep/gate/identity"
)

// standardServer is the lane everyone uses. Its limits on headers, idle connections and streams are the API server's own,
// so that what works there works here.
func (g *Gate) standardServer() *http.Server {
	read, write := bounds(g.config.UpstreamTimeout.Duration)
	return &http.Server{
		Handler: corridor{gate: g},
		// Each handshake takes the certificate in force; the listener's own configuration only says where to find it.
		TLSConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			NextProtos:         []string{"h2", "http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return g.rooms.Load().serving, nil },
		},
		ConnState:         g.places.follow,
		ReadHeaderTimeout: 32 * time.Second,
		ReadTimeout:       read,
		WriteTimeout:      write,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: g.config.Listen.Connections.MaxStreams,
			// One upload that is not read must not stop the others of its connection.
			MaxReceiveBufferPerStream: 256 << 10,
			// A client that stops reading must not hold memory for ever.
			WriteByteTimeout: time.Minute,
			SendPingTimeout:  30 * time.Second,
			PingTimeout:      15 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// servingConfig is what clients of one snapshot shake hands with, made once and not for every connection.
func servingConfig(clients *x509.CertPool, serving tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		ClientAuth:   identity.ClientAuth,
		ClientCAs:    clients,
		Certificates: []tls.Certificate{serving},
		NextProtos:   []string{"h2", "http/1.1"},
		// Small records after each pause are for browsers far away, which can show half a page. An API object is of use
		// when it is complete, and each record is a system call.
		DynamicRecordSizingDisabled: true,
	}
}

// sideServer serves metrics and health, without authentication and therefore on loopback unless the configuration says
// otherwise; nil when it is not configured.
func (g *Gate) sideServer() *http.Server {
	if g.side == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.opts.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	// Ready means that requests are taken; whether the API servers answer is theirs to say through /readyz on the lane.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if g.draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug)}
}
