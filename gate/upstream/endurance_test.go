package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
	"github.com/seakeep/seakeep/internal/pki"
)

// TestNothingCutsAQuietStream keeps streams open for a day without a byte, on a clock that skips it: no timeout of the
// proxy, of its transports or of their pings may end one (a balancer's 20 s ended `kubectl logs -f`, kubernetes/kubeadm#2227).
func TestNothingCutsAQuietStream(t *testing.T) {
	ca, err := pki.NewCA("test", time.Hour)
	check(t, err)
	pair, err := ca.Issue(pki.Spec{CommonName: "upstream", DNSNames: []string{"upstream"}, Server: true, Lifetime: time.Hour})
	check(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	issued := time.Now()
	inBubble := func() time.Time { return issued } // where it is the year 2000, before the certificate
	for _, protocol := range []string{"h2", "http/1.1"} {
		for name, target := range map[string]string{
			"a watch":               "/api/v1/pods?watch=true",
			"a followed log":        "/api/v1/namespaces/n/pods/p/log?follow=true",
			"a log read to its end": "/api/v1/namespaces/n/pods/p/log",
			"a proxied stream":      "/api/v1/namespaces/n/services/s/proxy/events",
		} {
			t.Run(name+" by "+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					network := &inMemory{conns: make(chan net.Conn), closed: make(chan struct{})}
					api := &http.Server{
						IdleTimeout: 90 * time.Second,
						ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
						TLSConfig:   &tls.Config{Certificates: []tls.Certificate{pair.TLS()}, NextProtos: []string{protocol}, Time: inBubble},
						Handler:     http.HandlerFunc(twiceADay),
					}
					var serving sync.WaitGroup
					serving.Go(func() { _ = api.ServeTLS(network, "", "") })
					config := &tls.Config{RootCAs: roots, ServerName: "upstream", Time: inBubble, NextProtos: []string{protocol}}
					connections := newPool(config, &net.Dialer{}, http.HTTP2Config{SendPingTimeout: defaultPingAfter, PingTimeout: defaultPingTimeout})
					connections.streams.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
						secure := tls.Client(network.dial(), config)
						return secure, secure.HandshakeContext(ctx)
					}
					server := &Server{Name: "api", state: choice.NewServer("api"), probes: connections.reads, url: &url.URL{Scheme: "https", Host: "upstream"}, pools: [3]pool{connections, connections, connections}}
					proxy := NewProxy(Fixed(server), identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}), time.Minute, NewBodies(nil), slog.New(slog.DiscardHandler))
					r := httptest.NewRequest(http.MethodGet, target, nil)
					f, err := flow.Classify(r, flow.Caller{Certainty: flow.TokenVerified}, flow.Standard, time.Now())
					check(t, err)
					answer, began := httptest.NewRecorder(), time.Now()
					proxy.Serve(answer, r, f, func(Result) {})
					want := map[string]string{"h2": "morning HTTP/2.0, evening HTTP/2.0, ", "http/1.1": "morning HTTP/1.1, evening HTTP/1.1, "}[protocol]
					if got, took := answer.Body.String(), time.Since(began); got != want || took < 24*time.Hour {
						t.Errorf("after %s the client had %q, want %q after a day", took, got, want)
					}
					server.Close()
					_ = api.Close()
					serving.Wait()
				})
			})
		}
	}
}

// twiceADay says something, and again a day later.
func twiceADay(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "morning %s, ", r.Proto)
	_ = http.NewResponseController(w).Flush()
	<-time.After(24 * time.Hour)
	fmt.Fprintf(w, "evening %s, ", r.Proto)
}

// inMemory is a network of one address: a bubble's time does not pass while somebody waits for a real one.
type inMemory struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (n *inMemory) dial() net.Conn {
	here, there := net.Pipe()
	n.conns <- there
	return here
}

// Accept implements net.Listener.
func (n *inMemory) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (n *inMemory) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr implements net.Listener.
func (n *inMemory) Addr() net.Addr { return &net.IPAddr{} }
