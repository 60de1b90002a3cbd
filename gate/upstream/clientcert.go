package upstream

import (
	"crypto/tls"
	"fmt"
	"sync"
)

// clientCertificate says, at each handshake, which certificate the front-proxy pool shows.
func clientCertificate(o *Options) (func(*tls.CertificateRequestInfo) (*tls.Certificate, error), error) {
	if o.ProxyCertificate != nil {
		fixed := o.ProxyCertificate
		return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return fixed, nil }, nil
	}
	read := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.ProxyCertFile, o.ProxyKeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the proxy certificate %s: %w", o.ProxyCertFile, err)
		}
		return &pair, nil
	}
	good, err := read()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		// A certificate and its key are two files: between their two replacements they do not fit each other.
		pair, err := read()
		if err != nil {
			if o.Log != nil {
				o.Log.Warn("Keeping the front-proxy certificate: the files cannot be used", "upstream", o.Name, "reason", err)
			}
			return good, nil
		}
		good = pair
		return good, nil
	}, nil
}
