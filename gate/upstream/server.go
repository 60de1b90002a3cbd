// Package upstream carries requests to the API servers: over which connections, as whom, and what a client is told
// when that does not work.
package upstream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/upstream/choice"
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
	// Discovery, when it is not nil, makes the URL the first of several; see there. Only a Keeper knows what to do with it.
	Discovery *Discovery
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
// In each pool reads, writes and streams have connections of their own, as many as it takes: an API server allows 100
// streams a connection, which watches fill, and a connection that breaks or waits for a lost packet takes with it, or
// holds up, what is on it. Upgrades (exec, attach, port-forward) exist in HTTP/1.1 only.
type Server struct {
	Name string
	url  *url.URL
	// same is equal for two servers that are the same in all Options say.
	same  [sha256.Size]byte
	pools [3]pool
	// probes asks how the server is, over a connection that nothing else can fill.
	probes *http.Transport

	state   *choice.Server
	watches watches
	load    loadState
	// inFlight counts requests being carried, streams included.
	inFlight atomic.Int64
}

type pool struct{ reads, writes, streams, upgrades *http.Transport }

func (p *pool) all() []*http.Transport {
	return []*http.Transport{p.reads, p.writes, p.streams, p.upgrades}
}

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
	s := &Server{Name: o.Name, url: parsed, state: choice.NewServer(o.Name)}
	if s.same, err = o.digest(); err != nil {
		return nil, err
	}
	plain := &tls.Config{RootCAs: roots, ServerName: o.ServerName, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	withCertificate := plain.Clone()
	withCertificate.GetClientCertificate = certificate
	dialer := &net.Dialer{Timeout: cmp.Or(o.DialTimeout, defaultDialTimeout), KeepAlive: 30 * time.Second}
	pings := http.HTTP2Config{SendPingTimeout: cmp.Or(o.PingAfter, defaultPingAfter), PingTimeout: cmp.Or(o.PingTimeout, defaultPingTimeout)}
	s.pools[frontProxy] = newPool(withCertificate, dialer, pings)
	s.pools[bearer] = newPool(plain, dialer, pings)
	s.pools[stranger] = newPool(plain, dialer, pings)
	s.probes = newTransport(withCertificate, dialer, pings)
	return s, nil
}

// digest is of everything by which one server differs from another. A certificate that is read at each handshake differs
// in its files' names only.
func (o *Options) digest() (sum [sha256.Size]byte, err error) {
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		return sum, fmt.Errorf("reading the CA of upstream %s: %w", o.Name, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q %d %d %d\n", o.Name, o.URL, o.ServerName, o.ProxyCertFile, o.ProxyKeyFile, o.DialTimeout, o.PingAfter, o.PingTimeout)
	h.Write(ca)
	if o.ProxyCertificate != nil {
		for _, der := range o.ProxyCertificate.Certificate {
			h.Write(der)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func withProtocols(config *tls.Config, names ...string) *tls.Config {
	config = config.Clone()
	config.NextProtos = names
	return config
}

// handshakeTimeout is longer than that of the connection: a busy server takes longer than its kernel.
func handshakeTimeout(dialer *net.Dialer) time.Duration { return 2 * dialer.Timeout }

func newTransport(config *tls.Config, dialer *net.Dialer, pings http.HTTP2Config) *http.Transport {
	opening := &dialing{dial: secured(dialer, withProtocols(config, "h2", "http/1.1"), handshakeTimeout(dialer))}
	return &http.Transport{
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
}

func newPool(config *tls.Config, dialer *net.Dialer, pings http.HTTP2Config) pool {
	p := pool{reads: newTransport(config, dialer, pings), writes: newTransport(config, dialer, pings), streams: newTransport(config, dialer, pings)}
	upgrades := newTransport(config, dialer, pings)
	upgrades.ForceAttemptHTTP2 = false
	// Each on a connection of its own: net/http sends a GET again when a connection it had used before breaks, and an
	// exec by WebSocket is a GET.
	upgrades.DisableKeepAlives = true
	upgrades.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	upgrades.DialTLSContext = secured(dialer, withProtocols(config, "http/1.1"), handshakeTimeout(dialer))
	p.upgrades = upgrades
	return p
}

// transportFor picks the pool of a request by how its caller is known, and the connections in it by what they carry.
func (s *Server) transportFor(f *flow.Request, method string) *http.Transport {
	p := &s.pools[stranger]
	switch f.Caller.Certainty {
	case flow.CertificateVerified:
		p = &s.pools[frontProxy]
	case flow.TokenVerified:
		p = &s.pools[bearer]
	}
	switch {
	case f.Upgrade:
		return p.upgrades
	case f.Unbounded():
		return p.streams
	case method == http.MethodGet, method == http.MethodHead:
		return p.reads
	}
	return p.writes
}

// Warm asks for /livez over each kind of connection of the front-proxy pool, so that they exist before they are needed. It
// returns an error when no answer came; any answer at all means the connection works.
func (s *Server) Warm(ctx context.Context) error {
	p := &s.pools[frontProxy]
	for _, connections := range []*http.Transport{p.reads, p.writes, p.streams} {
		if err := s.warm(ctx, connections); err != nil {
			return fmt.Errorf("reaching upstream %s: %w", s.Name, err)
		}
	}
	return nil
}

func (s *Server) warm(ctx context.Context, connections *http.Transport) error {
	target := *s.url
	target.Path = "/livez"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	response, err := shared(connections, req)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// Busy is true while requests are carried.
func (s *Server) Busy() bool { return s.inFlight.Load() > 0 }

// Close ends idle connections; those in use become idle with the end of their requests and then wait for a Close again.
func (s *Server) Close() {
	s.probes.CloseIdleConnections()
	for i := range s.pools {
		for _, connections := range s.pools[i].all() {
			connections.CloseIdleConnections()
		}
	}
}
