// Package pki makes certificate authorities, certificates and keys, in memory and as PEM files, with nothing but the
// standard library. The lab builds a whole cluster's PKI with it, and break-glass credentials are issued with it
// offline: on the day they are needed there is no signing API to ask.
//
// Keys are ECDSA P-256, which every component of a cluster accepts and which costs a handshake little. Files with
// a key have mode 0600 and are replaced whole, so a reader never sees half a key.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// backdate is how far before its nominal start a certificate is valid, because the clocks of two machines of one
// cluster differ and a credential issued in an outage must work at once.
const backdate = 5 * time.Minute

// PEM block types.
const (
	blockCertificate = "CERTIFICATE"
	blockPrivateKey  = "PRIVATE KEY"
	blockPublicKey   = "PUBLIC KEY"
)

// Spec says what a certificate is for. A certificate is a client certificate, a serving certificate, or both.
type Spec struct {
	CommonName    string   // for a client: the user name
	Organizations []string // for a client: the groups
	DNSNames      []string // serving: names
	IPs           []net.IP // serving: addresses
	// NotBefore is the start of validity; the zero value means now, backdated by five minutes against clock skew.
	NotBefore time.Time
	// Lifetime counts from NotBefore (or now) and must be > 0. The end is cut to the authority's own end.
	Lifetime time.Duration
	// Client and Server choose the extended key usages; at least one must be set.
	Client, Server bool
}

// Pair is a certificate with its private key.
type Pair struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// CA is a certificate authority: a pair that may sign.
type CA struct{ Pair }

// NewCA makes a self-signed authority that lives for lifetime from now.
func NewCA(commonName string, lifetime time.Duration) (*CA, error) {
	if lifetime <= 0 {
		return nil, fmt.Errorf("lifetime of authority %q must be > 0, got %s", commonName, lifetime)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	pair, err := sign(template, nil)
	if err != nil {
		return nil, fmt.Errorf("making authority %q: %w", commonName, err)
	}
	return &CA{Pair: *pair}, nil
}

// LoadCA reads an authority's certificate and key.
func LoadCA(certFile, keyFile string) (*CA, error) {
	pair, err := LoadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if !pair.Cert.IsCA {
		return nil, fmt.Errorf("certificate %s is not an authority's", certFile)
	}
	return &CA{Pair: *pair}, nil
}

// Issue makes a new key and signs a certificate for it.
func (ca *CA) Issue(spec Spec) (*Pair, error) {
	switch {
	case spec.CommonName == "":
		return nil, errors.New("commonName must not be empty")
	case spec.Lifetime <= 0:
		return nil, fmt.Errorf("lifetime of %q must be > 0, got %s", spec.CommonName, spec.Lifetime)
	case !spec.Client && !spec.Server:
		return nil, fmt.Errorf("certificate of %q must be for a client, a server or both", spec.CommonName)
	}
	start := spec.NotBefore
	if start.IsZero() {
		start = time.Now().Add(-backdate)
		spec.Lifetime += backdate
	}
	end := start.Add(spec.Lifetime)
	if end.After(ca.Cert.NotAfter) {
		end = ca.Cert.NotAfter
	}
	if !end.After(start) {
		return nil, fmt.Errorf("certificate of %q would end at %s, before it starts: the authority %q expired at %s",
			spec.CommonName, end.Format(time.RFC3339), ca.Cert.Subject.CommonName, ca.Cert.NotAfter.Format(time.RFC3339))
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: spec.CommonName, Organization: slices.Clone(spec.Organizations)},
		DNSNames:              slices.Clone(spec.DNSNames),
		IPAddresses:           slices.Clone(spec.IPs),
		NotBefore:             start,
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if spec.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if spec.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	pair, err := sign(template, ca)
	if err != nil {
		return nil, fmt.Errorf("issuing certificate of %q: %w", spec.CommonName, err)
	}
	return pair, nil
}

// sign makes a key for the template and signs it with the authority, or with itself if there is none.
func sign(template *x509.Certificate, ca *CA) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	// 127 bits: positive, unpredictable, and within the 20 octets RFC 5280 allows.
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	parent, signer := template, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.Cert, ca.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing own certificate: %w", err)
	}
	return &Pair{Cert: cert, Key: key}, nil
}

// CertPEM returns the certificate as PEM.
func (p *Pair) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: p.Cert.Raw})
}

// KeyPEM returns the private key as PKCS #8 PEM.
func (p *Pair) KeyPEM() ([]byte, error) { return MarshalKey(p.Key) }

// TLS returns the pair for a TLS configuration.
func (p *Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key, Leaf: p.Cert}
}

// Write writes the pair to two files: the certificate with mode 0644, the key with mode 0600.
func (p *Pair) Write(certFile, keyFile string) error {
	key, err := p.KeyPEM()
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(keyFile, key, 0o600); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	if err := renameio.WriteFile(certFile, p.CertPEM(), 0o644); err != nil {
		return fmt.Errorf("writing certificate: %w", err)
	}
	return nil
}

// LoadPair reads a certificate and its key, and checks that they belong together.
func LoadPair(certFile, keyFile string) (*Pair, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	certs, err := ParseCerts(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading certificate %s: %w", certFile, err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	key, err := ParseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", keyFile, err)
	}
	public, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("key %s does not belong to certificate %s", keyFile, certFile)
	}
	return &Pair{Cert: certs[0], Key: key}, nil
}
