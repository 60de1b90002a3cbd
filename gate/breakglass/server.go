// Package breakglass is the lane of the gate that is there when nothing else is: a process of its own, with its own
// listener, CA, connections upstream, memory, descriptors and audit file. On 2024-12-11 the engineers knew within
// minutes which DaemonSet to delete and could not: their requests stood in the same queue as the load they wanted to
// end. Nothing on the standard lane can take from this one; it can squeeze the standard lane.
//
// It needs its configuration file and the files that names, and nothing else: no API server, name service, gossip or
// standard gate. Where something it would like to have is missing (a cgroup, a disk to audit on, a gate to squeeze), it
// says so and serves.
package breakglass

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/pki"
)

// Bounds of one client's part in the lane's memory and time.
const (
	readHeaderTimeout = 10 * time.Second // the TLS handshake's as well
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	maxStreams        = 100
	// clientPing and clientPong find a client that is gone without a word, whose watches would stay for hours.
	clientPing, clientPong = 15 * time.Second, 15 * time.Second
	// drainTimeout is how long the end of the process waits for requests in flight; streams are ended at once.
	drainTimeout = 10 * time.Second
	// headerTimeout is longer than the API server's own --request-timeout, so that its word comes first.
	headerTimeout = 65 * time.Second
	// upstreamDial, upstreamPing and upstreamPong find an API server that is gone without a word sooner than the 45 s a
	// controller may wait. An answer to a ping has time, because a busy API server must not lose the lane's connection.
	upstreamDial               = time.Second
	upstreamPing, upstreamPong = 3 * time.Second, 10 * time.Second
)

// Options are what New needs.
type Options struct {
	// Config is defaulted and validated.
	Config *v1alpha1.BreakGlassConfiguration
	Log    *slog.Logger
	// Stderr takes audit events that cannot be written to the audit file.
	Stderr io.Writer
	// Registerer takes the lane's metrics, and Gatherer serves them.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer
	// Clock is time.Now when nil. It judges certificates.
	Clock func() time.Time
}

// Server is one break-glass lane.
type Server struct {
	log     *slog.Logger
	metrics *metrics
	trust   *trust
	// upstreams are the lane's own API servers, probes and connections: what the standard gate thinks of them is nothing
	// to go by in an outage.
	upstreams *upstream.Keeper
	servers   []*upstream.Server
	bodies    *upstream.Bodies
	proxy     *upstream.Proxy
	headers   *identity.Headers
	squeezer  *squeezer
	recorder  *recorder
	live      *live
	warmth    *warmth
	clock     func() time.Time

	listener net.Listener
	metricsL net.Listener // nil without a metrics address
	gatherer prometheus.Gatherer
}

// New reads every file, binds the addresses and returns a lane that Run serves. Nothing it does needs an answer from
// anyone. A Server that is not run must be closed.
func New(o Options) (_ *Server, err error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	c := o.Config
	m := newMetrics(o.Registerer)
	s := &Server{log: o.Log, metrics: m, clock: o.Clock, live: newLive(), gatherer: o.Gatherer, bodies: upstream.NewBodies(o.Registerer), upstreams: upstream.NewKeeper(o.Registerer, o.Log)}
	if s.trust, err = newTrust(c.Listen, o.Log, m, o.Clock); err != nil {
		return nil, err
	}
	s.trust.onChange = func() { s.live.end(s.trust.check) }
	if err := s.connectUpstream(c); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.bind(c); err != nil {
		return nil, err
	}
	s.recorder = newRecorder(func() (chain, error) { return openChain(c.AuditFile, o.Log) }, o.Stderr, o.Log, m)
	s.squeezer = newSqueezer(c.StandardGates, c.SqueezeAfter.Duration, o.Log, m, func(reason string, heard, gates int) {
		s.recorder.note(record{Event: eventSqueeze, Reason: fmt.Sprintf("%s; %d of %d gates make way", reason, heard, gates)})
	})
	return s, nil
}

func (s *Server) connectUpstream(c *v1alpha1.BreakGlassConfiguration) error {
	if err := config.CheckPrivate(c.Identity.ProxyKeyFile); err != nil {
		return fmt.Errorf("front-proxy key %s %w", c.Identity.ProxyKeyFile, err)
	}
	pair, err := pki.LoadPair(c.Identity.ProxyCertFile, c.Identity.ProxyKeyFile)
	if err != nil {
		return fmt.Errorf("reading the front-proxy certificate: %w", err)
	}
	if !s.clock().Before(pair.Cert.NotAfter) {
		return fmt.Errorf("front-proxy certificate %s expired at %s", c.Identity.ProxyCertFile, pair.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	s.metrics.certificateExpiry.WithLabelValues(certificateFrontProxy).Set(float64(pair.Cert.NotAfter.Unix()))
	var options []upstream.Options
	for _, u := range c.Upstreams {
		options = append(options, upstream.Options{
			Name: u.Name, URL: u.URL, CAFile: u.CAFile, ServerName: u.ServerName,
			ProxyCertFile: c.Identity.ProxyCertFile, ProxyKeyFile: c.Identity.ProxyKeyFile,
			Log: s.log, DialTimeout: upstreamDial, PingAfter: upstreamPing, PingTimeout: upstreamPong,
		})
	}
	group, err := s.upstreams.Prepare(options)
	if err != nil {
		return err
	}
	s.headers = identity.NewHeaders(v1alpha1.FrontProxy, c.Identity.RequestHeaders)
	s.upstreams.Use(group, s.headers, 0) // no watch of an engineer is moved
	s.servers = group.Servers()
	s.proxy = upstream.NewProxy(group, s.headers, headerTimeout, s.bodies, s.log)
	s.warmth = newWarmth(s.servers, s.metrics, s.log)
	return nil
}

func (s *Server) bind(c *v1alpha1.BreakGlassConfiguration) error {
	inner, err := net.Listen("tcp", c.Listen.Address)
	if err != nil {
		return fmt.Errorf("listening for engineers: %w", err)
	}
	s.listener = newListener(inner, c.MaxConnections, s.metrics)
	if c.MetricsAddress == "" {
		return nil
	}
	if s.metricsL, err = net.Listen("tcp", c.MetricsAddress); err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	return nil
}

// Address is where the lane listens.
func (s *Server) Address() net.Addr { return s.listener.Addr() }

// MetricsAddress is where metrics are served, nil when nowhere.
func (s *Server) MetricsAddress() net.Addr {
	if s.metricsL == nil {
		return nil
	}
	return s.metricsL.Addr()
}

// Close frees the addresses of a lane that is not run. After Run it does nothing.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.listener, s.metricsL} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	s.upstreams.Close()
	if s.recorder != nil {
		s.recorder.close()
	}
	return errors.Join(errs...)
}

// Run serves until the context ends, then ends streams, lets requests in flight finish, and returns nil. It returns an
// error only when the lane cannot serve.
func (s *Server) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { s.trust.run(background) })
	wg.Go(func() { s.squeezer.run(background) })
	wg.Go(func() { s.warmth.run(background) })
	wg.Go(func() { s.upstreams.Run(background) })
	lane := s.laneServer()
	failed := make(chan error, 2)
	wg.Go(func() { failed <- serving("engineers", lane.ServeTLS(s.listener, "", "")) })
	var local *http.Server
	if s.metricsL != nil {
		local = s.localServer()
		wg.Go(func() { failed <- serving("metrics", local.Serve(s.metricsL)) })
	}
	if err := s.recorder.write(record{Event: eventStarted, Reason: "listening on " + s.Address().String()}); err != nil {
		s.log.Warn("The lane's start is not on record", "reason", err)
	}
	s.log.Info("Break-glass lane open", "address", s.Address().String())

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.log.Info("Closing the break-glass lane")
	s.live.endStreams()
	drain, cancel := context.WithTimeout(background, drainTimeout)
	defer cancel()
	if shutdown := lane.Shutdown(drain); shutdown != nil {
		s.log.Warn("Cutting off requests that did not finish in time", "reason", shutdown)
		lane.Close() // its error is the listener's, closed already
	}
	s.live.wait(drain)
	if local != nil {
		local.Close() // nothing in flight is worth waiting for
	}
	s.recorder.note(record{Event: eventStopped})
	stop()
	wg.Wait()
	return errors.Join(err, s.Close())
}

func serving(what string, err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving %s: %w", what, err)
}

func (s *Server) laneServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.trust.tlsConfig(s.refusedHandshake),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: clientPing, PingTimeout: clientPong},
		ErrorLog:          slog.NewLogLogger(&handshakeErrors{Handler: s.log.Handler(), refused: s.metrics.refused.WithLabelValues(refusedHandshake)}, slog.LevelDebug),
	}
}
