package frame

import (
	"bytes"
	"compress/gzip"
	"io"
)

// HeadBytes is how much of a LIST's answer, decompressed, is searched for its version.
const HeadBytes = 4 << 10

// ListVersion reads the resourceVersion of a LIST's answer from its first bytes, as they came: gzipped says that they are
// compressed. ok is false with needMore when more of the answer may tell, and without when it will not: built-in kinds,
// Table and PartialObjectMetadataList name their version first, in JSON and protobuf; a list of custom resources in JSON
// names it behind its items (see ListVersionTail); and what is no list has none.
func ListVersion(contentType string, gzipped bool, head []byte) (version uint64, ok, needMore bool) {
	text, more := head, true
	if gzipped {
		var err error
		if text, err = gunzip(head); err != nil {
			return 0, false, false
		}
	}
	if len(text) >= HeadBytes {
		text, more = text[:HeadBytes], false
	}
	var s state
	switch mediaType(contentType) {
	case JSON:
		version, s = jsonListVersion(text)
	case Protobuf:
		version, s = protobufListVersion(text)
	default:
		return 0, false, false
	}
	return version, s == whole, more && s == short
}

// gunzip decompresses the beginning of a stream as far as it goes, at most HeadBytes.
func gunzip(head []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(head))
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text := make([]byte, HeadBytes)
	n, err := io.ReadFull(z, text)
	if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil {
		return text[:n], nil
	}
	return nil, err
}

// TailBytes is how much of a LIST's end ListVersionTail needs at most: a continue token is the longest thing there.
const TailBytes = 4 << 10

// ListVersionTail reads the resourceVersion of a custom resource's LIST in JSON, not compressed, from its last bytes. The
// answer must be complete. The text `,"metadata":{…}}` that ends it can only be the list's own: its last brace closes
// the list, and what stands before it has neither a brace nor an escape.
func ListVersionTail(tail []byte) (version uint64, ok bool) {
	tail = bytes.TrimRight(tail, "\n")
	inner, found := bytes.CutSuffix(tail, []byte("}}"))
	if !found {
		return 0, false
	}
	brace := bytes.LastIndexAny(inner, "{}[]\\")
	if brace < 0 || inner[brace] != '{' || !bytes.HasSuffix(inner[:brace], []byte(`,"metadata":`)) {
		return 0, false
	}
	c := cursor{b: tail[brace : len(tail)-1]}
	if c.find("resourceVersion") != whole {
		return 0, false
	}
	text, s := c.text()
	if s != whole {
		return 0, false
	}
	return parseVersion(text)
}
