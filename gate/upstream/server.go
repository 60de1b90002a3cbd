// Package upstream carries requests to the API servers: over which connections, as whom, and what a client is told
// when that does not work.
package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/internal/pki"
)

// Options describe one API server.
type Options struct {
	// Name is used in metrics and messages.
	Name string
	// URL is https://host:port.
	URL string
	// CAFile verifies the API server; ServerName overrides the name in its certificate.
	CAFile, ServerName string
	// ProxyCertificate is the client certificate of the front-proxy pool. When it is nil, ProxyCertFile and ProxyKeyFile
	// are, read again at every handshake: a rotated pair is used without a restart, and while the two files do not fit
	// each other the last good pair is.
	ProxyCertificate            *tls.Certificate
	ProxyCertFile, ProxyKeyFile string
	// Log hears of a pair that cannot be used; nil: nobody.
	Log *slog.Logger
	// DialTimeout bounds how long a dead API server can hold a request; the next one is tried after it. Default 5s.
	DialTimeout time.Duration
	// PingAfter is how long a connection may be silent before the API server is asked whether it is there, and
	// PingTimeout how long it has to say so; a short one would cut connections to an API server that is only busy.
	// Default 30s and 15s.
	PingAfter, PingTimeout time.Duration
}

// Server is one API server and the connections to it. Three pools never share a connection:
//
//   - frontProxy carries our client certificate and X-Remote-* headers, so it must never carry a request whose
//     identity is the client's own;
//   - bearer carries tokens the gate could verify;
//   - stranger carries anonymous requests and tokens that could not be verified. The API server closes an HTTP/2
//     connection on which it answered 401 (its rapid-reset mitigation, kubernetes/kubernetes#121120), so one bad
//     client must not churn everyone's connection.
//
// Each pool has a second transport for upgrades (exec, attach, port-forward), which exist in HTTP/1.1 only.
type Server struct {
	Name  string
	url   *url.URL
	pools [3]pool

	// inFlight counts requests being carried, streams included.
	inFlight atomic.Int64
	// downUntil is when the server is tried again after it could not be reached (unix nanoseconds).
	downUntil atomic.Int64
}

type pool struct{ requests, upgrades *http.Transport }

const (
	frontProxy = iota
	bearer
	stranger
)

const (
	defaultDialTimeout = 5 * time.Second
	// A silent peer is found within 45 s, as client-go does (kubernetes/kubernetes#48638).
	defaultPingAfter   = 30 * time.Second
	defaultPingTimeout = 15 * time.Second
)

// New opens no connection; it fails when a file cannot be used.
func New(o Options) (*Server, error) {
	parsed, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("parsing the URL of upstream %s: %w", o.Name, err)
	}
	roots, err := pki.LoadPool(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA of upstream %s: %w", o.Name, err)
	}
	certificate, err := clientCertificate(&o)
	if err != nil {
		return nil, err
	}
	s := &Server{Name: o.Name, url: parsed}
	plain := &tls.Config{RootCAs: roots, ServerName: o.ServerName, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	withCertificate := plain.Clone()
	withCertificate.GetClientCertificate = certificate
	dialer := &net.Dialer{Timeout: cmp.Or(o.DialTimeout, defaultDialTimeout), KeepAlive: 30 * time.Second}
	pings := http.HTTP2Config{SendPingTimeout: cmp.Or(o.PingAfter, defaultPingAfter), PingTimeout: cmp.Or(o.PingTimeout, defaultPingTimeout)}
	s.pools[frontProxy] = newPool(withCertificate, dialer, pings)
	s.pools[bearer] = newPool(plain, dialer, pings)
	s.pools[stranger] = newPool(plain, dialer, pings)
	return s, nil
}

func withProtocols(config *tls.Config, names ...string) *tls.Config {
	config = config.Clone()
	config.NextProtos = names
	return config
}

func newPool(config *tls.Config, dialer *net.Dialer, pings http.HTTP2Config) pool {
	handshake := 2 * dialer.Timeout // a busy server takes longer for it than its kernel for the connection
	opening := &dialing{dial: secured(dialer, withProtocols(config, "h2", "http/1.1"), handshake)}
	requests := &http.Transport{
		DialTLSContext:    opening.open,
		ForceAttemptHTTP2: true,
		// A response passes as it came: unzipping it here would cost CPU and change what the client sees.
		DisableCompression: true,
		// net/http closes a connection that is one too many while requests are on it; 1024 carry 100,000 watches.
		MaxIdleConnsPerHost: 1024,
		// Less than the API server's own 90 s: of two who hang up at the same moment one may just have begun a write.
		IdleConnTimeout: 60 * time.Second,
		// A client that asks before it sends is answered by the API server, not by us. Without a limit a server that
		// does not know the question would never get the body.
		ExpectContinueTimeout: 30 * time.Second,
		HTTP2:                 &pings,
	}
	upgrades := requests.Clone()
	upgrades.ForceAttemptHTTP2 = false
	// Each on a connection of its own: net/http sends a GET again when a connection it had used before breaks, and an
	// exec by WebSocket is a GET.
	upgrades.DisableKeepAlives = true
	upgrades.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	upgrades.DialTLSContext = secured(dialer, withProtocols(config, "http/1.1"), handshake)
	return pool{requests: requests, upgrades: upgrades}
}

// transportFor picks the pool of a request by how its caller is known.
func (s *Server) transportFor(f *flow.Request) *http.Transport {
	p := &s.pools[stranger]
	switch f.Caller.Certainty {
	case flow.CertificateVerified:
		p = &s.pools[frontProxy]
	case flow.TokenVerified:
		p = &s.pools[bearer]
	}
	if f.Upgrade {
		return p.upgrades
	}
	return p.requests
}

// Warm asks for /livez over the front-proxy pool, so that the pool's connection exists before it is needed. It returns
// an error when no answer came; any answer at all means the connection works.
func (s *Server) Warm(ctx context.Context) error {
	target := *s.url
	target.Path = "/livez"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	response, err := shared(s.pools[frontProxy].requests, req)
	if err != nil {
		return fmt.Errorf("reaching upstream %s: %w", s.Name, err)
	}
	return response.Body.Close()
}

// Busy is true while requests are carried.
func (s *Server) Busy() bool { return s.inFlight.Load() > 0 }

// Close ends idle connections; those in use become idle with the end of their requests and then wait for a Close again.
func (s *Server) Close() {
	for _, p := range s.pools {
		p.requests.CloseIdleConnections()
		p.upgrades.CloseIdleConnections()
	}
}
