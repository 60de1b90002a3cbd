package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowServer answers nobody until all of a crowd have asked.
func slowServer(t *testing.T, http2 bool, crowd int) (url string, transport *http.Transport, opened *atomic.Int64) {
	t.Helper()
	var here sync.WaitGroup
	here.Add(crowd)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		here.Done()
		here.Wait()
	}))
	server.EnableHTTP2 = http2
	server.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 20}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	transport = newPool(config, &net.Dialer{Timeout: 5 * time.Second}, http.HTTP2Config{}).reads
	opened = &atomic.Int64{}
	dial := transport.DialTLSContext
	count := &dialing{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		opened.Add(1)
		return secured(&net.Dialer{Timeout: 5 * time.Second}, withProtocols(config, "h2", "http/1.1"), 10*time.Second)(ctx, network, address)
	}}
	if dial == nil {
		t.Fatal("the pool does not dial")
	}
	transport.DialTLSContext = count.open
	t.Cleanup(transport.CloseIdleConnections)
	return server.URL, transport, opened
}

// A crowd that comes at once shares connections, as many as the server's streams ask for, and a few more.
func TestACrowdSharesConnections(t *testing.T) {
	const crowd = 200
	for name, tc := range map[string]struct {
		http2 bool
		most  int64
	}{
		"HTTP/2, 20 streams a connection": {true, 2 * crowd / 20},
		"HTTP/1.1, one request each":      {false, crowd},
	} {
		t.Run(name, func(t *testing.T) {
			url, transport, opened := slowServer(t, tc.http2, crowd)
			var asked sync.WaitGroup
			for range crowd {
				asked.Go(func() {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("body"))
					if err != nil {
						t.Error(err)
						return
					}
					response, err := shared(transport, r)
					if err != nil {
						t.Error(err)
						return
					}
					_ = response.Body.Close()
				})
			}
			asked.Wait()
			if n := opened.Load(); n > tc.most {
				t.Errorf("%d connections were opened for %d requests, want ≤ %d", n, crowd, tc.most)
			}
		})
	}
}

// A server that cannot be reached is asked once for all who wait, and all learn of it.
func TestADeadServerIsDialledOnce(t *testing.T) {
	var dials atomic.Int64
	release := make(chan struct{})
	dead := errors.New("nobody is there")
	d := &dialing{dial: func(context.Context, string, string) (net.Conn, error) {
		dials.Add(1)
		<-release
		return nil, dead
	}}
	errs := make(chan error)
	for range 10 {
		go func() {
			_, err := d.open(context.Background(), "tcp", "nowhere:1")
			errs <- err
		}()
	}
	for dials.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.open(ctx, "tcp", "nowhere:1"); !neverSent(err) {
		t.Errorf("who does not want to wait got %v", err)
	}
	close(release)
	for range 10 {
		if err := <-errs; !errors.Is(err, dead) {
			t.Errorf("got %v, want what the dial said", err)
		}
	}
}
