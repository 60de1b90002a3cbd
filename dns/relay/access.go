package relay

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/seakeep/seakeep/internal/pki"
)

// Anyone is, as a name in Access.Allow, every client that has a certificate of the CA.
const Anyone = "*"

// Access says who may read. The default is nobody: the data shows the names and addresses of pods.
type Access struct {
	// CertFile and KeyFile are the relay's own; they are read again at every handshake, so that renewed ones are used.
	CertFile, KeyFile string
	// ClientCAFile has the CAs of client certificates.
	ClientCAFile string
	// Allow are the names of client certificates (common name or DNS name) that may read; Anyone allows all of the CA.
	Allow []string
	// TokenFile has a bearer token, for clients without a certificate; it is read at every request.
	TokenFile string
	// Plain serves plain HTTP to whoever can connect; only on loopback.
	Plain bool
}

// Validate says what is missing or contradicts, for a listener at an address.
func (a Access) Validate(address string) error {
	if a.Plain {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("plain HTTP is for a loopback address only, got %s", address)
		}
		if a.CertFile != "" || a.TokenFile != "" || len(a.Allow) > 0 {
			return errors.New("plain HTTP goes with neither certificates, tokens nor names")
		}
		return nil
	}
	switch {
	case a.CertFile == "" || a.KeyFile == "":
		return errors.New("a certificate and its key are needed (or plain HTTP on loopback, written out)")
	case a.ClientCAFile == "" && a.TokenFile == "":
		return errors.New("nobody could read: give the clients' CA and the names that are allowed, or a token file")
	case a.ClientCAFile != "" && len(a.Allow) == 0 && a.TokenFile == "":
		return fmt.Errorf("nobody could read: say which names are allowed, %q being every certificate of the CA", Anyone)
	case a.ClientCAFile == "" && len(a.Allow) > 0:
		return errors.New("names are allowed, and there is no CA to prove them")
	}
	if _, err := a.handshake(); err != nil {
		return err
	}
	if a.TokenFile != "" {
		if _, err := a.token(); err != nil {
			return err
		}
	}
	return nil
}

// TLS is the configuration of the listener; nil for plain HTTP.
func (a Access) TLS() *tls.Config {
	if a.Plain {
		return nil
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return a.handshake() },
	}
}

func (a Access) handshake() (*tls.Config, error) {
	own, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the relay's certificate: %w", err)
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{own},
		SessionTicketsDisabled: true, // a resumed session would outlive a change of the CA
	}
	if a.ClientCAFile != "" {
		if c.ClientCAs, err = pki.LoadPool(a.ClientCAFile); err != nil {
			return nil, fmt.Errorf("reading the clients' CA: %w", err)
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if a.TokenFile != "" {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	return c, nil
}

func (a Access) token() (string, error) {
	content, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if len(token) < 16 {
		return "", fmt.Errorf("the token in %s is shorter than 16 characters", a.TokenFile)
	}
	return token, nil
}

// check returns the HTTP code of a refusal, 0 for who may read.
func (a Access) check(r *http.Request) int {
	if a.Plain {
		return 0
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if a.allows(r.TLS.VerifiedChains[0][0]) {
			return 0
		}
		return http.StatusForbidden
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if a.TokenFile == "" || !strings.EqualFold(scheme, "Bearer") {
		return http.StatusUnauthorized
	}
	token, err := a.token()
	if err != nil {
		return http.StatusUnauthorized
	}
	want, got := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(given))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return http.StatusUnauthorized
	}
	return 0
}

func (a Access) allows(c *x509.Certificate) bool {
	return slices.ContainsFunc(a.Allow, func(name string) bool {
		return name == Anyone || name == c.Subject.CommonName || slices.Contains(c.DNSNames, name)
	})
}
