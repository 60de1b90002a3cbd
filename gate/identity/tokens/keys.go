package tokens

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/client-go/util/keyutil"
)

// maxKeyFileBytes bounds a key file and an issuer's answer.
const maxKeyFileBytes = 1 << 20

// maxKeys bounds the keys of one issuer: a token without a key ID is tried against each.
const maxKeys = 64

// keyring is every key in force. It is not changed; a reload makes another.
type keyring struct {
	accounts *accounts
	issuers  []issuer
}

// publicKey is one key and what it may be used for.
type publicKey struct {
	id  string
	alg string // "" any
	key any    // *rsa.PublicKey, *ecdsa.PublicKey
}

// readKeys reads every file of the options. With a previous ring, an issuer whose file is missing or bad keeps its last
// good keys, and the error is returned beside the new ring; without one the ring is nil on error.
func readKeys(opts *Options, previous *keyring) (*keyring, error) {
	var errs []error
	ring := &keyring{}
	if sa := opts.ServiceAccounts; sa != nil {
		keys, err := readAccountKeys(sa.KeyFiles)
		if err != nil && previous != nil {
			keys = previous.accounts.keys
		}
		errs = append(errs, err)
		audiences := sa.Audiences
		if len(audiences) == 0 {
			audiences = sa.Issuers // as --api-audiences does
		}
		ring.accounts = &accounts{issuers: sa.Issuers, audiences: audiences, keys: keys}
	}
	for i, config := range opts.OIDC {
		keys, err := readKeySet(config.JWKSFile)
		if err != nil && previous != nil {
			keys = previous.issuers[i].keys
		}
		if config.JWKSURL != "" && errors.Is(err, os.ErrNotExist) {
			err = nil // Run will fetch it
		}
		errs = append(errs, err)
		ring.issuers = append(ring.issuers, issuer{config: config, keys: keys})
	}
	err := errors.Join(errs...)
	if err != nil && previous == nil {
		return nil, err
	}
	return ring, err
}

func readAccountKeys(files []string) ([]publicKey, error) {
	var keys []publicKey
	for _, file := range files {
		data, err := readBounded(file)
		if err != nil {
			return nil, fmt.Errorf("reading service account keys: %w", err)
		}
		found, err := keyutil.ParsePublicKeysPEM(data)
		if err != nil {
			return nil, fmt.Errorf("reading service account keys of %s: the file must hold PEM public keys or certificates: %w", file, err)
		}
		for _, key := range found {
			id, err := accountKeyID(key)
			if err != nil {
				return nil, fmt.Errorf("reading service account keys of %s: %w", file, err)
			}
			keys = append(keys, publicKey{id: id, key: key})
		}
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("reading service account keys: there must not be more than %d, got %d", maxKeys, len(keys))
	}
	return keys, nil
}

// accountKeyID is the key ID the API server writes into the tokens it signs (pkg/serviceaccount/jwt.go).
func accountKeyID(key any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

func readKeySet(file string) ([]publicKey, error) {
	data, err := readBounded(file)
	if err != nil {
		return nil, fmt.Errorf("reading issuer keys: %w", err)
	}
	keys, err := parseKeySet(data)
	if err != nil {
		return nil, fmt.Errorf("reading issuer keys of %s: %w", file, err)
	}
	return keys, nil
}

// parseKeySet takes the signing keys of a JSON Web Key Set. Keys it cannot use (symmetric, private, encryption, unknown
// types) are passed over: an issuer may add a new type beside the ones in use. A set without a usable key is an error.
func parseKeySet(data []byte) ([]publicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("not a JSON Web Key Set: %w", err)
	}
	var keys []publicKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if !usable(key.Key) || key.Algorithm != "" && !slices.Contains(algorithms, jose.SignatureAlgorithm(key.Algorithm)) {
			continue
		}
		keys = append(keys, publicKey{id: key.KeyID, alg: key.Algorithm, key: key.Key})
	}
	switch {
	case len(keys) == 0:
		return nil, errors.New("the key set must hold at least one public RSA or ECDSA signing key")
	case len(keys) > maxKeys:
		return nil, fmt.Errorf("the key set must not hold more than %d keys, got %d", maxKeys, len(keys))
	}
	return keys, nil
}

// usable keeps to the two families the algorithms need; that the algorithm of a token fits the key's type is checked
// by go-jose.
func usable(key any) bool {
	switch key.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return true
	}
	return false
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxKeyFileBytes {
		return nil, fmt.Errorf("%s must not be larger than %d bytes", file, maxKeyFileBytes)
	}
	return data, nil
}

// check verifies the token's signature and decodes its claims with the first key that fits. A key ID in the token rules
// out keys of another ID, as the API server does, so that most tokens cost one signature check at most.
func check(token *jwt.JSONWebToken, keys []publicKey, claims ...any) bool {
	header := token.Headers[0]
	for _, key := range keys {
		if header.KeyID != "" && key.id != "" && header.KeyID != key.id {
			continue
		}
		if key.alg != "" && key.alg != header.Algorithm {
			continue
		}
		if token.Claims(key.key, claims...) == nil {
			return true
		}
	}
	return false
}
