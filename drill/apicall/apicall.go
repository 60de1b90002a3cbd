// Package apicall sends single HTTP requests to an API server and hides nothing of what comes back. The usual clients
// queue requests on their own side, retry what was rejected and share connections between each other; all of that would
// be measured as if it were the API server.
package apicall

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// Content types of requests.
const (
	JSON           = "application/json"
	MergePatch     = "application/merge-patch+json"
	StrategicPatch = "application/strategic-merge-patch+json"
	ApplyPatch     = "application/apply-patch+yaml"
)

// maxBody bounds what is kept of an answer.
const maxBody = 64 << 20

// Caller sends requests over connections of its own. Close it.
type Caller struct {
	base      *url.URL
	client    *http.Client
	transport *http.Transport
	userAgent string
}

// New returns a caller that authenticates as the configuration says.
func New(config *rest.Config, userAgent string) (*Caller, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's address: %w", err)
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("loading client credentials: %w", err)
	}
	transport := &http.Transport{
		TLSClientConfig:     tls,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		// A connection whose API server was killed without a word is found out and replaced.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("loading client credentials: %w", err)
	}
	return &Caller{base: base, client: &http.Client{Transport: wrapped}, transport: transport, userAgent: userAgent}, nil
}

// Close closes the connections that are idle.
func (c *Caller) Close() { c.transport.CloseIdleConnections() }

// Do sends one request and reads the whole answer. The error is the transport's; any status code is an answer.
func (c *Caller) Do(ctx context.Context, method, path, contentType string, body []byte) (int, []byte, error) {
	response, err := c.open(ctx, method, path, contentType, body)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return response.StatusCode, data, nil
}

// Discard sends one request, reads the whole answer and keeps none of it.
func (c *Caller) Discard(ctx context.Context, method, path, contentType string, body []byte) (int, error) {
	response, err := c.open(ctx, method, path, contentType, body)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	return response.StatusCode, nil
}

// Stream opens a GET and returns its body, to be closed by the caller.
func (c *Caller) Stream(ctx context.Context, path string) (int, io.ReadCloser, error) {
	response, err := c.open(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, response.Body, nil
}

func (c *Caller) open(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	target, query, _ := strings.Cut(path, "?")
	u := *c.base
	u.Path, u.RawQuery = target, query
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", c.userAgent)
	request.Header.Set("Accept", "application/json, text/plain;q=0.9, */*;q=0.1")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	return c.client.Do(request)
}
