package analysis

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// maxAnswer bounds what the server of a metric may answer.
const maxAnswer = 8 << 20

// asker is a client for the server of a metric. The headers are for that server and for no other: a redirect to another host is an
// error. net/http takes Authorization off such a redirect, but only where it has been put on the first request, and only that and
// cookies: not the X-API-Key of a metrics store.
func asker(insecure bool, headers []v1alpha1.RolloutHeader) *http.Client {
	next := verified
	if insecure {
		next = unverified
	}
	return &http.Client{Transport: headed{next, headers}, CheckRedirect: sameHost}
}

// withValues are headers with the values of those that are in files, as these are now. What is in a file is in no error.
func (m Metric) withValues(headers []v1alpha1.RolloutHeader) ([]v1alpha1.RolloutHeader, error) {
	all := slices.Clone(headers)
	for i, h := range all {
		if h.ValueFrom == nil {
			continue
		}
		data, err := m.read(h.ValueFrom.File)
		if err != nil {
			return nil, fmt.Errorf("reading the value of header %s: %w", h.Key, err)
		}
		value := strings.TrimRight(string(data), "\r\n")
		if value == "" || strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("reading the value of header %s: %s must hold it on one line", h.Key, h.ValueFrom.File)
		}
		all[i].Value = value
	}
	return all, nil
}

// maxRedirects is net/http's own bound.
const maxRedirects = 10

func sameHost(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case r.URL.Scheme != first.Scheme || r.URL.Host != first.Host:
		return fmt.Errorf("it redirects to %s://%s, and headers are sent to %s://%s only: name the address where the redirect ends", r.URL.Scheme, r.URL.Host, first.Scheme, first.Host)
	case len(via) >= maxRedirects:
		return fmt.Errorf("it redirects more than %d times", maxRedirects)
	}
	return nil
}

// headed sends headers along, and bounds answers.
type headed struct {
	next    http.RoundTripper
	headers []v1alpha1.RolloutHeader
}

func (h headed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for _, one := range h.headers {
		r.Header.Set(one.Key, one.Value)
	}
	response, err := h.next.RoundTrip(r)
	if err == nil {
		response.Body = &bounded{response.Body, maxAnswer + 1}
	}
	return response, err
}

// bounded ends with an error where an answer is too long.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// The transports are shared by all metrics, so that their connections are.
var (
	verified   = transport(nil)
	unverified = transport(&tls.Config{InsecureSkipVerify: true})
)

func transport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Control: notLinkLocal}
	return &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second, TLSClientConfig: config}
}

// notLinkLocal refuses addresses at which clouds hand out the machine's own credentials. No metrics are served there, and who may
// write a Rollout on a hub is not meant to be who may act as the controller's machine.
func notLinkLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the address %s: %w", address, err)
	}
	if at.Addr().Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("%s is link-local, where machines get their credentials: metrics are not read there", at.Addr())
	}
	return nil
}

// place is a URL for people, without what may be secret in it: user, password and query.
func place(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "its URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// bare is an error without the URL that net/http and net/url put before it.
func bare(err error) error {
	var about *url.Error
	if errors.As(err, &about) {
		return about.Err
	}
	return err
}
