package credentials

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/seakeep/seakeep/internal/pki"
)

// How long a credential may live.
const (
	// DefaultLifetime is one shift.
	DefaultLifetime = 8 * time.Hour
	// MaxLifetime is the cap without AllowLong: API servers know no revocation of client certificates, so only a
	// short life bounds what a lost laptop costs.
	MaxLifetime = 7 * 24 * time.Hour
	// minLifetime is enough to type a command.
	minLifetime = time.Minute
)

// Masters is the group that authorization never refuses, and API Priority and Fairness never queues.
const Masters = "system:masters"

// Request asks for one credential.
type Request struct {
	// Name becomes the user: the certificate's common name. It should be a person's, for the audit.
	Name string
	// Groups become the certificate's organizations.
	Groups   []string
	Lifetime time.Duration
	// AllowLong lifts MaxLifetime.
	AllowLong bool
	// CSR, PEM, keeps the key where it was made; empty: a key is generated. Only the CSR's public key is used: who
	// asks does not decide who he is.
	CSR []byte
	Now time.Time
}

// Credential is one certificate and, unless it was made from a CSR, its key.
type Credential struct {
	Certificate    *x509.Certificate
	CertificatePEM []byte
	// KeyPEM is empty when the certificate was made from a CSR.
	KeyPEM []byte
}

// Issue makes a credential. It does no I/O.
func (a *Authority) Issue(req Request) (*Credential, error) {
	if err := req.validate(a.Certificate); err != nil {
		return nil, err
	}
	public, keyPEM, err := req.key()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	notBefore := req.Now.Add(-backdate)
	if notBefore.Before(a.Certificate.NotBefore) {
		notBefore = a.Certificate.NotBefore
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: req.Name, Organization: req.Groups},
		NotBefore:             notBefore,
		NotAfter:              req.Now.Add(req.Lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", req.Name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the new certificate of %s: %w", req.Name, err)
	}
	return &Credential{Certificate: certificate, CertificatePEM: encodeCertificate(der), KeyPEM: keyPEM}, nil
}

func (r *Request) validate(ca *x509.Certificate) error {
	var errs []error
	switch {
	case r.Name == "":
		errs = append(errs, errors.New("the name must not be empty: it is what the audit shows"))
	case strings.HasPrefix(r.Name, "system:"):
		errs = append(errs, fmt.Errorf("the name must not start with system:, got %q: it would be taken for a component", r.Name))
	case strings.TrimSpace(r.Name) != r.Name || strings.ContainsFunc(r.Name, isControl):
		errs = append(errs, fmt.Errorf("the name must not start or end with a space or hold control characters, got %q", r.Name))
	}
	if len(r.Groups) == 0 {
		errs = append(errs, errors.New("at least one group: a user without groups may do nothing"))
	}
	for _, group := range r.Groups {
		if group == "" || strings.ContainsFunc(group, isControl) {
			errs = append(errs, fmt.Errorf("a group must not be empty or hold control characters, got %q", group))
		}
	}
	expires := r.Now.Add(r.Lifetime)
	switch {
	case r.Lifetime < minLifetime:
		errs = append(errs, fmt.Errorf("the lifetime must be at least %v, got %v", minLifetime, r.Lifetime))
	case r.Lifetime > MaxLifetime && !r.AllowLong:
		errs = append(errs, fmt.Errorf("the lifetime must be at most %v, got %v: a certificate cannot be revoked at the API server", MaxLifetime, r.Lifetime))
	case expires.After(ca.NotAfter):
		errs = append(errs, fmt.Errorf("the credential would outlive its CA, which expires at %s", stamp(ca.NotAfter)))
	}
	return errors.Join(errs...)
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

// key returns the public key to certify, and the private key's PEM when it was generated here.
func (r *Request) key() (crypto.PublicKey, []byte, error) {
	if len(r.CSR) == 0 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("generating a key: %w", err)
		}
		encoded, err := pki.MarshalKey(key)
		return key.Public(), encoded, err
	}
	csr, err := parseCSR(r.CSR)
	if err != nil {
		return nil, nil, err
	}
	return csr.PublicKey, nil, nil
}

// parseCSR reads one PEM certificate request whose signature proves that the asker holds the key.
func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("reading the CSR: no PEM block CERTIFICATE REQUEST")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("reading the CSR: more than one PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the CSR: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking the CSR's signature: %w", err)
	}
	return csr, nil
}

// Serial is the certificate's serial number as the lane's list of denied serials wants it.
func Serial(certificate *x509.Certificate) string { return certificate.SerialNumber.Text(16) }

// Fingerprint is the SHA-256 of the certificate, in hexadecimal, as the API server's credential id carries it.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}
