package config

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/util/keyutil"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// CheckFiles opens every file the document names and reports all that is wrong with them: unreadable, not what it should
// be, expired or not valid yet at now, a key that does not fit its certificate, a key others can read. The error is
// Violations.
func (d *Document) CheckFiles(now time.Time) error {
	kind, ok := d.Object.(v1alpha1.Files)
	if !ok {
		return nil
	}
	var all Violations
	for _, ref := range kind.Files() {
		if err := checkFile(&ref, now); err != nil {
			all = append(all, d.violation(ref.Field.String(), &ref.Path, err.Error()))
		}
	}
	return all.asError()
}

func checkFile(ref *v1alpha1.FileRef, now time.Time) error {
	data, err := readMaterial(ref.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && ref.MayBeAbsent:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the file must exist")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("the file must be readable by this user")
	case err != nil:
		return err
	}
	switch ref.Use {
	case v1alpha1.FileCertificate:
		chain, err := certificates(data)
		if err != nil {
			return err
		}
		return validAt(chain[0], now)
	case v1alpha1.FileKey:
		return checkKey(ref, data)
	case v1alpha1.FileCA:
		chain, err := certificates(data)
		if err != nil {
			return err
		}
		for _, authority := range chain {
			if !authority.IsCA && authority.BasicConstraintsValid {
				return fmt.Errorf("must hold authorities only: %q is not one", authority.Subject)
			}
			if err := validAt(authority, now); err != nil {
				return err
			}
		}
	case v1alpha1.FilePublicKeys:
		if _, err := keyutil.ParsePublicKeysPEM(data); err != nil {
			return errors.New("must hold PEM public keys or certificates")
		}
	case v1alpha1.FilePeerKeys:
		if _, err := ParsePeerKeys(data); err != nil {
			return err
		}
		return CheckPrivate(ref.Path)
	case v1alpha1.FileKeySet:
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) == 0 {
			return errors.New("must be a JSON Web Key Set with at least one key")
		}
	}
	return nil
}

func checkKey(ref *v1alpha1.FileRef, data []byte) error {
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return errors.New("must hold an unencrypted PEM private key")
	}
	if ref.OwnerOnly {
		if err := CheckPrivate(ref.Path); err != nil {
			return err
		}
	}
	certData, err := readMaterial(ref.CertFile)
	if err != nil {
		return nil // said where the certificate is named
	}
	chain, err := certificates(certData)
	if err != nil {
		return nil
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return errors.New("must be a key that can sign")
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return fmt.Errorf("must be the key of the certificate in %s", ref.CertFile)
	}
	return nil
}

// certificates takes every certificate of a PEM file; none is an error.
func certificates(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("must hold PEM certificates: %w", err)
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("must hold at least one PEM certificate")
	}
	return chain, nil
}

func validAt(c *x509.Certificate, now time.Time) error {
	const day = "2006-01-02 15:04 MST"
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("must not be expired: %q ended %s", c.Subject, c.NotAfter.UTC().Format(day))
	case now.Before(c.NotBefore):
		return fmt.Errorf("must be valid now: %q begins %s", c.Subject, c.NotBefore.UTC().Format(day))
	}
	return nil
}

// readMaterial reads a bounded file; a directory or a device is refused.
func readMaterial(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("must be a file")
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("must not be larger than %d bytes", maxFileBytes)
	}
	return os.ReadFile(path)
}
