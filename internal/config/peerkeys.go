package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// maxPeerKeys is more than a rotation takes, which is two.
const maxPeerKeys = 8

// ParsePeerKeys reads the keys that gates speak to each other with: one a line, in base64, of 16, 24 or 32 bytes. Empty lines
// and those that begin with # are passed over. The first key encrypts, each decrypts.
func ParsePeerKeys(data []byte) ([][]byte, error) {
	var keys [][]byte
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if n := len(key); err != nil || n != 16 && n != 24 && n != 32 {
			return nil, fmt.Errorf("line %d must be 16, 24 or 32 bytes in base64 (head -c 32 /dev/urandom | base64)", number)
		}
		if len(keys) == maxPeerKeys {
			return nil, fmt.Errorf("must hold at most %d keys", maxPeerKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("must hold at least one key (head -c 32 /dev/urandom | base64)")
	}
	return keys, nil
}
