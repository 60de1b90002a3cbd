// Package door is what the benchmarks put in front of API servers: the gate as an operator runs it, a program and a file,
// and HAProxy; both as processes of a lab. What stands in their configurations is each benchmark's own.
package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// Address is a free loopback address in the lab's range.
func Address(l *lab.Lab) (string, error) {
	port, err := l.NextPort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}

// Transport has an HTTP/2 connection of its own and verifies servers; once means a connection for each request.
func Transport(roots *x509.CertPool, once bool) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: once, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
}

// Answers says whether the API server answers through a door, over HTTP/2.
func Answers(url string, roots *x509.CertPool) func(context.Context) error {
	client := &http.Client{Transport: Transport(roots, true)}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		switch {
		case response.StatusCode != http.StatusOK:
			return errors.New("not ready: " + response.Status)
		case response.ProtoMajor != 2:
			return errors.New("it does not speak HTTP/2")
		}
		return nil
	}
}

// Start starts a process that listens on the address, waits until the API server answers through it, and returns its URL.
func Start(ctx context.Context, l *lab.Lab, address string, spec lab.ProcessSpec) (url string, err error) {
	roots, err := pki.LoadPool(l.CAFile())
	if err != nil {
		return "", err
	}
	url = "https://" + address
	spec.Ready = Answers(url, roots)
	_, err = l.Run(ctx, spec)
	return url, err
}

// HAProxyFiles are what a configuration of HAProxy is made of: the address it listens on, and the files with its own
// certificate and key and with those by which API servers let it assert who its clients are.
type HAProxyFiles struct{ Address, Certificate, FrontProxy string }

// StartHAProxy starts HAProxy under a name in the lab and returns its URL.
func StartHAProxy(ctx context.Context, l *lab.Lab, spec lab.ProcessSpec, config func(HAProxyFiles) string) (url string, err error) {
	address, err := Address(l)
	if err != nil {
		return "", err
	}
	if spec.Path, err = baseline.HAProxy.Find(); err != nil {
		return "", err
	}
	dir := filepath.Join(l.Dir(), spec.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making HAProxy's folder: %w", err)
	}
	files, file := HAProxyFiles{address, filepath.Join(dir, "haproxy.pem"), filepath.Join(dir, "front-proxy.pem")}, filepath.Join(dir, "haproxy.cfg")
	if err := join(files.Certificate, l.PKI().ServingCert, l.PKI().ServingKey); err != nil {
		return "", err
	}
	if err := join(files.FrontProxy, l.PKI().FrontProxyCert, l.PKI().FrontProxyKey); err != nil {
		return "", err
	}
	if err := renameio.WriteFile(file, []byte(config(files)), 0o600); err != nil {
		return "", fmt.Errorf("writing HAProxy's configuration: %w", err)
	}
	spec.Args = []string{"-db", "-f", file}
	return Start(ctx, l, address, spec)
}

// join makes the file that HAProxy wants a certificate and its key in.
func join(to string, from ...string) error {
	var both []byte
	for _, name := range from {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("reading a certificate: %w", err)
		}
		both = append(both, data...)
	}
	if err := renameio.WriteFile(to, both, 0o600); err != nil {
		return fmt.Errorf("writing a certificate: %w", err)
	}
	return nil
}
