package upstream

import (
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"sync"
)

// auditHeader is the API server's: it takes a client's Audit-ID for its own audit log, and makes one when there is none.
const auditHeader = "Audit-Id"

// AuditMark is the last group of the Audit-IDs this process gives: twelve hexadecimal digits, new with each process. By it
// the API server's audit log tells a request that came through this gate from one that went round it; the source address
// cannot, because whatever runs on the gate's host shares it.
//
// It is a mark to count by and no seal: a client reads it in the Audit-ID of its own answers, and one that sends it along
// on its way round the gate hides itself, and nobody else, from the comparison.
var AuditMark = sync.OnceValue(func() string {
	var b [8]byte
	putRandom(b[:])
	return hex.EncodeToString(b[:6])
})

// markAudit gives the request a marked Audit-ID unless the client sent one, which is passed on as every header is.
func markAudit(h http.Header) {
	if _, ok := h[auditHeader]; !ok {
		h[auditHeader] = []string{newAuditID()}
	}
}

// newAuditID is a UUID of version 8 (RFC 9562: the bits are the maker's), because readers of audit logs expect a UUID.
func newAuditID() string {
	var b [16]byte
	putRandom(b[:])
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], b[0:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	copy(text[24:], AuditMark())
	return string(text[:])
}

// putRandom fills whole groups of eight bytes. The numbers need only differ; nothing is secret.
func putRandom(b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		n := rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(n >> (8 * j))
		}
	}
}
