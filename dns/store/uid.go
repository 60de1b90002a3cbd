package store

import (
	"crypto/sha256"
	"encoding/hex"
)

// UID is the identity of an object: the 16 bytes of a UUID, which is what the API server makes. The zero UID is none.
type UID [16]byte

// ParseUID reads a UID. Text that is no UUID gets an identity of its own, derived from it: equal text, equal UID.
func ParseUID(text string) UID {
	if text == "" {
		return UID{}
	}
	if u, ok := parseUUID(text); ok {
		return u
	}
	sum := sha256.Sum256([]byte(text))
	u := UID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8, "custom", of RFC 9562
	return u
}

// String is the UUID, or empty.
func (u UID) String() string {
	if u == (UID{}) {
		return ""
	}
	var text [36]byte
	hex.Encode(text[:], u[:4])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	hex.Encode(text[9:], u[4:6])
	hex.Encode(text[14:], u[6:8])
	hex.Encode(text[19:], u[8:10])
	hex.Encode(text[24:], u[10:])
	return string(text[:])
}

func parseUUID(s string) (u UID, ok bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return u, false
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	_, err := hex.Decode(u[:], []byte(digits))
	return u, err == nil && u != UID{}
}
