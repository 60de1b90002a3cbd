package gate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// TestTheLaneCutsNoQuietStream keeps a client's stream open for a day without a byte, on a clock that skips it: what the
// lane's server bounds for other requests is off for a stream, in either protocol, and pings keep it.
func TestTheLaneCutsNoQuietStream(t *testing.T) {
	ca, err := pki.NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Spec{CommonName: "gate", DNSNames: []string{"gate"}, Server: true, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	issued := time.Now()
	inBubble := func() time.Time { return issued } // where it is the year 2000, before the certificate
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				patience := 75 * time.Second
				g := &Gate{log: slog.New(slog.DiscardHandler), config: &v1alpha1.GateConfiguration{UpstreamTimeout: &metav1.Duration{Duration: patience}}}
				server := g.standardServer()
				server.ConnState = nil // counting places is not what is tested
				server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair.TLS()}, NextProtos: []string{protocol}, Time: inBubble}
				server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w = newEndless(w, patience) // as the corridor does for a stream
					fmt.Fprint(w, "morning, ")
					_ = http.NewResponseController(w).Flush()
					<-time.After(24 * time.Hour)
					fmt.Fprint(w, "evening")
				})
				conns := make(oneAddress)
				var serving sync.WaitGroup
				serving.Go(func() { _ = server.ServeTLS(conns, "", "") })
				config := &tls.Config{RootCAs: roots, ServerName: "gate", Time: inBubble, NextProtos: []string{protocol}}
				transport := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					here, there := net.Pipe()
					conns <- there
					secure := tls.Client(here, config)
					return secure, secure.HandshakeContext(ctx)
				}}
				began := time.Now()
				response, err := (&http.Client{Transport: transport}).Get("https://gate/api/v1/pods?watch=true")
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				if took := time.Since(began); err != nil || string(body) != "morning, evening" || took < 24*time.Hour {
					t.Errorf("after %s the client had %q, %v", took, body, err)
				}
				_ = response.Body.Close()
				transport.CloseIdleConnections()
				_ = server.Close()
				serving.Wait()
			})
		})
	}
}

// oneAddress is a network in memory: a bubble's time does not pass while somebody waits for a real one.
type oneAddress chan net.Conn

// Accept implements net.Listener.
func (n oneAddress) Accept() (net.Conn, error) {
	if c, ok := <-n; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (n oneAddress) Close() error {
	close(n)
	return nil
}

// Addr implements net.Listener.
func (n oneAddress) Addr() net.Addr { return &net.IPAddr{} }
