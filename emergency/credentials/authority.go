// Package credentials makes and tries the credentials engineers keep for the day the control plane does not answer.
// Making them needs no API server and no network: in the outage of 2024-12-11 the engineers knew what to delete and
// every way in led through what was down. Trying them is a command for a daily job, because a key that was never
// turned is not known to fit.
package credentials

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
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/seakeep/seakeep/internal/pki"
)

// backdate is how far before now a certificate becomes valid: clocks of API servers differ, and in an emergency nobody
// should wait for one.
const backdate = 5 * time.Minute

// Authority is the break-glass CA, loaded with its key. Keep the key offline or in a safe: whoever holds it can be
// anyone on the cluster.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// The files InitAuthority writes.
const (
	AuthorityCertFile = "break-glass-ca.crt"
	AuthorityKeyFile  = "break-glass-ca.key"
)

// AuthorityOptions shape a new break-glass CA.
type AuthorityOptions struct {
	// Dir is made with mode 0700 when it does not exist.
	Dir string
	// Name is the CA's common name.
	Name string
	// Lifetime is how long the CA is valid, from 1 hour.
	Lifetime time.Duration
	Now      time.Time
}

// InitAuthority makes a break-glass CA in a folder and returns it. It never replaces one: credentials in engineers'
// hands would stop working unnoticed.
func InitAuthority(opts AuthorityOptions) (*Authority, error) {
	if opts.Name == "" {
		return nil, errors.New("the CA's name must not be empty")
	}
	if opts.Lifetime < time.Hour {
		return nil, fmt.Errorf("the CA's lifetime must be at least 1h, got %v", opts.Lifetime)
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the CA's folder: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the CA's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: opts.Name},
		NotBefore:             opts.Now.Add(-backdate),
		NotAfter:              opts.Now.Add(opts.Lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs engineers, never another CA
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the CA's certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the CA's new certificate: %w", err)
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without its key would look like a finished CA.
	if err := writeNew(filepath.Join(opts.Dir, AuthorityKeyFile), keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(opts.Dir, AuthorityCertFile), encodeCertificate(der), 0o644); err != nil {
		return nil, err
	}
	return &Authority{Certificate: certificate, key: key}, nil
}

// LoadAuthority reads the break-glass CA and refuses one that an API server would refuse or that others may have
// copied: expired, not yet valid, not a CA, a key that does not belong to it, a key file readable by anyone but its
// owner.
func LoadAuthority(certFile, keyFile string, now time.Time) (*Authority, error) {
	if err := ownerOnly(keyFile); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading CA %s with key %s: %w", certFile, keyFile, err)
	}
	certificate := pair.Leaf
	if len(pair.Certificate) > 1 {
		return nil, fmt.Errorf("CA file %s holds %d certificates: name the one that signs", certFile, len(pair.Certificate))
	}
	switch {
	case !certificate.BasicConstraintsValid || !certificate.IsCA:
		return nil, fmt.Errorf("%s is not a CA certificate (subject %q)", certFile, certificate.Subject)
	case certificate.KeyUsage != 0 && certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("CA %s may not sign certificates: its key usage lacks certSign", certFile)
	case now.Before(certificate.NotBefore):
		return nil, fmt.Errorf("CA %s is not valid before %s", certFile, stamp(certificate.NotBefore))
	case !now.Before(certificate.NotAfter):
		return nil, fmt.Errorf("CA %s expired at %s", certFile, stamp(certificate.NotAfter))
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key in %s cannot sign", keyFile)
	}
	return &Authority{Certificate: certificate, key: signer}, nil
}

// ownerOnly refuses a key that others on the host can read.
func ownerOnly(keyFile string) error {
	info, err := os.Stat(keyFile)
	if err != nil {
		return fmt.Errorf("reading the CA's key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("CA key %s has mode %#o: it must be readable by its owner only (0600)", keyFile, mode)
	}
	return nil
}

// newSerial draws 127 random bits: positive, and never seen before (RFC 5280 §4.1.2.2).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// writeNew writes a file that must not exist yet, with its mode from the first byte on, and syncs it.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
