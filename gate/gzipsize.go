package gate

import (
	"encoding/binary"
	"net/http"
)

// gzipSize finds the size of a compressed answer before compression without unzipping it: a gzip stream ends with it
// (ISIZE, RFC 1952 section 2.3.1). client-go asks for gzip, and the API server compresses LISTs about tenfold; a limit
// on what passes the wire would let through ten times the work it was set for.
type gzipSize struct {
	seen, compressed bool
	written          int64
	tail             [4]byte
}

// deflateRatio is the most that deflate can compress (RFC 1951: 258 bytes in 2 bits); more than that is no ISIZE.
const deflateRatio = 1032

// wrote takes the next part of the answer's body. The header is read at the first part, when it is complete.
func (g *gzipSize) wrote(header http.Header, b []byte) {
	if !g.seen {
		g.seen, g.compressed = true, header.Get("Content-Encoding") == "gzip"
	}
	if !g.compressed {
		return
	}
	g.written += int64(len(b))
	if len(b) >= len(g.tail) {
		copy(g.tail[:], b[len(b)-len(g.tail):])
		return
	}
	copy(g.tail[:], g.tail[len(b):])
	copy(g.tail[len(g.tail)-len(b):], b)
}

// saved is how many bytes compression saved, 0 when the answer was not compressed. It is only right after the last
// byte. Answers above 4 GiB count modulo 4 GiB.
func (g *gzipSize) saved() int64 {
	size := int64(binary.LittleEndian.Uint32(g.tail[:]))
	if !g.compressed || size > g.written*deflateRatio {
		return 0
	}
	return max(0, size-g.written)
}
