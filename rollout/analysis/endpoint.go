package analysis

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// Endpoint is one API server or one member of etcd, reached by itself and not through what balances between them.
type Endpoint struct {
	// Name is for people.
	Name string
	// URL is its base, as https://10.0.0.1:6443; /metrics and /readyz are below it.
	URL    string
	Client *http.Client
}

// maxMetrics bounds one answer of /metrics; busy API servers send 20 MB.
const maxMetrics = 128 << 20

// Metrics reads all of its metrics, in the Prometheus text format.
func (e Endpoint) Metrics(ctx context.Context) ([]byte, error) {
	body, err := get(ctx, e.Client, e.URL+"/metrics", maxMetrics)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics of %s: %w", e.Name, err)
	}
	return body, nil
}

func get(ctx context.Context, client *http.Client, url string, most int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	// A client of Kubernetes puts its credentials on every request that it sends, on one that was redirected too.
	here := *client
	here.CheckRedirect = sameHost
	response, err := here.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	n, err := body.ReadFrom(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return nil, err
	case n > most:
		return nil, fmt.Errorf("the answer is longer than %d bytes", most)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	return body.Bytes(), nil
}

// fresh is a client that opens a connection for every request: what is broken for those who connect does not show on
// connections that are there.
func fresh(config *rest.Config, timeout time.Duration) (*http.Client, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client that connects anew: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true, TLSHandshakeTimeout: timeout, Proxy: config.Proxy, DialContext: config.Dial}
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("making a client that connects anew: %w", err)
	}
	return &http.Client{Transport: wrapped, Timeout: timeout}, nil
}

// ServersOf are the API servers of a cluster at these addresses, host:port, asked with the credentials of config; without addresses
// it is the one that config talks to, or what balances between them. They are verified by the name that config's host has, as
// their certificates carry it and not always their own addresses.
func ServersOf(config *rest.Config, addresses ...string) ([]Endpoint, error) {
	if len(addresses) == 0 {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			return nil, fmt.Errorf("making a client for the API server: %w", err)
		}
		return []Endpoint{{Name: config.Host, URL: strings.TrimSuffix(config.Host, "/"), Client: client}}, nil
	}
	endpoints := make([]Endpoint, 0, len(addresses))
	for _, address := range addresses {
		own := rest.CopyConfig(config)
		own.Host = "https://" + address
		if own.ServerName == "" {
			if host, err := hostOf(config.Host); err == nil {
				own.ServerName = host
			}
		}
		client, err := rest.HTTPClientFor(own)
		if err != nil {
			return nil, fmt.Errorf("making a client for the API server %s: %w", address, err)
		}
		endpoints = append(endpoints, Endpoint{Name: address, URL: own.Host, Client: client})
	}
	return endpoints, nil
}

// EtcdOf are members of etcd at these URLs, asked with the credentials of config. Files that it names are read now.
func EtcdOf(config *rest.Config, urls ...string) ([]Endpoint, error) {
	config = rest.CopyConfig(config)
	// A client of files would watch them for the life of the process.
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("reading the keys for etcd: %w", err)
	}
	endpoints := make([]Endpoint, 0, len(urls))
	for _, url := range urls {
		own := rest.CopyConfig(config)
		own.Host = url
		client, err := rest.HTTPClientFor(own)
		if err != nil {
			return nil, fmt.Errorf("making a client for etcd's member %s: %w", url, err)
		}
		endpoints = append(endpoints, Endpoint{Name: "etcd " + url, URL: url, Client: client})
	}
	return endpoints, nil
}
