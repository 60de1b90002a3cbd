package gate

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"
)

func TestGzipSize(t *testing.T) {
	plain := bytes.Repeat([]byte(`{"kind":"Pod"}`), 10_000)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	compressed := http.Header{"Content-Encoding": {"gzip"}}
	tests := map[string]struct {
		header http.Header
		body   []byte
		part   int // bytes a write
		want   int64
	}{
		"in one write":               {compressed, packed.Bytes(), packed.Len(), int64(len(plain) - packed.Len())},
		"byte by byte":               {compressed, packed.Bytes(), 1, int64(len(plain) - packed.Len())},
		"the size split":             {compressed, packed.Bytes(), packed.Len() - 2, int64(len(plain) - packed.Len())},
		"not compressed":             {http.Header{}, packed.Bytes(), packed.Len(), 0},
		"what is no gzip is no size": {compressed, []byte("\xff\xff\xff\xff"), 4, 0},
		"empty":                      {compressed, nil, 1, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var g gzipSize
			for body := test.body; len(body) > 0; body = body[min(test.part, len(body)):] {
				g.wrote(test.header, body[:min(test.part, len(body))])
			}
			if got := g.saved(); got != test.want {
				t.Errorf("saved %d bytes, want %d", got, test.want)
			}
		})
	}
}
