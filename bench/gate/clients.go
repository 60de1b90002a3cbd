package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/lab"
)

// certificateUser comes with a client certificate.
var certificateUser = lab.User("bench@example.com")

// clients are a contender's clients, each with a connection of its own.
type clients struct {
	url        string
	tokens     []string // none: they have a certificate
	transports []*http.Transport
}

// clientsOf makes new clients: connections of one turn are not those of another.
func (r *rig) clientsOf(contender string, withCertificate bool, connections int) (*clients, error) {
	c := &clients{url: r.urls[contender]}
	config := &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12}
	if withCertificate {
		pair, err := rest.TLSConfigFor(r.lab.RESTConfig(certificateUser))
		if err != nil {
			return nil, fmt.Errorf("reading the client certificate: %w", err)
		}
		config.GetClientCertificate = pair.GetClientCertificate
		config.Certificates = pair.Certificates
	} else {
		c.tokens = r.tokens
	}
	for range connections {
		c.transports = append(c.transports, &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true, DisableCompression: true})
	}
	return c, nil
}

// watchersOf are clients for watches. nginx keeps the headers of an HTTP/2 answer until there is a body, so that a
// watch on which nothing happens is never answered; through it they speak HTTP/1.1, a connection each.
func (r *rig) watchersOf(contender string, connections int) (*clients, error) {
	c, err := r.clientsOf(contender, false, connections)
	if err != nil || contender != nginxName {
		return c, err
	}
	for _, t := range c.transports {
		t.ForceAttemptHTTP2 = false
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return c, nil
}

func (c *clients) close() {
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}

// call is what one request asks for.
type call struct {
	method, path, accept, contentType string
	body                              func(i int) []byte
}

// request makes client i's request.
func (c *clients) request(ctx context.Context, i int, method, path, accept, contentType string, body []byte) (*http.Request, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, reader)
	if err != nil {
		return nil, err
	}
	request.Header["User-Agent"] = userAgent
	request.Header["Accept"] = []string{accept}
	if contentType != "" {
		request.Header["Content-Type"] = []string{contentType}
	}
	if c.tokens != nil {
		request.Header["Authorization"] = []string{"Bearer " + c.tokens[i%len(c.tokens)]}
	}
	return request, nil
}

var userAgent = []string{"seakeep-bench/1.0 (linux/amd64)"}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// do sends what of(i) asks for and reads the answer to its end.
func (c *clients) do(of func(i int) call) load.Do {
	return func(ctx context.Context, i int) (int64, error) {
		what := of(i)
		var body []byte
		if what.body != nil {
			body = what.body(i)
		}
		request, err := c.request(ctx, i, what.method, what.path, what.accept, what.contentType, body)
		if err != nil {
			return 0, err
		}
		response, err := c.transports[i%len(c.transports)].RoundTrip(request)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		n := int64(0)
		for {
			read, err := response.Body.Read(*buffer)
			n += int64(read)
			if err == io.EOF {
				break
			}
			if err != nil {
				return n, err
			}
		}
		if response.StatusCode != http.StatusOK {
			return n, fmt.Errorf("%s %s: %s", what.method, what.path, response.Status)
		}
		if length := response.Header.Get("Content-Length"); length != "" && length != strconv.FormatInt(n, 10) {
			return n, fmt.Errorf("%s %s: %d bytes came of %s", what.method, what.path, n, length)
		}
		return n, nil
	}
}
