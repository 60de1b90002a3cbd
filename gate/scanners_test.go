package gate

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"testing"
)

// pieces cuts data as a connection might: the cuts are the sizes, over and over.
func pieces(data, cuts []byte, use func([]byte)) {
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(cuts) > 0 {
			n = min(n, 1+int(cuts[i%len(cuts)]))
		}
		use(data[:n])
		data = data[n:]
	}
}

// FuzzInitialEvents: the text that ends the initial events is found wherever the answer is cut, and nowhere else.
func FuzzInitialEvents(f *testing.F) {
	end := string(initialEventsEnd)
	f.Add([]byte(`{"type":"BOOKMARK","object":{"metadata":{"annotations":{"`+end+`":"true"}}}}`), []byte{0})
	f.Add([]byte("k8s\x00"+end[:len(end)-1]+end), []byte{byte(len(end) - 2), 0, 3})
	f.Add([]byte(end[1:]+end[:5]), []byte{})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		ended := 0
		events := watchInitialEvents(func() { ended++ })
		defer events.finish()
		pieces(data, cuts, func(b []byte) { events.wrote(b) })
		if want := bytes.Contains(data, initialEventsEnd); want != (ended == 1) || ended > 1 {
			t.Errorf("ended %d times, the text is there: %v", ended, want)
		}
	})
}

// FuzzGzipSize: a compressed answer counts by its size before compression wherever it is cut, and what only says that it
// is compressed is bounded by what gzip can do.
func FuzzGzipSize(f *testing.F) {
	f.Add(bytes.Repeat([]byte("pod"), 9), []byte{0}, true)
	f.Add([]byte("a"), []byte{1, 2, 3}, true)
	f.Add([]byte("\x1f\x8b\x08\x00\xff\xff\xff\xff"), []byte{200}, false)
	f.Add([]byte{}, []byte{}, true)
	w := gzip.NewWriter(nil) // one for all: it is large, and a worker does one after the other
	f.Fuzz(func(t *testing.T, data, cuts []byte, compress bool) {
		sent := data
		if compress {
			var b bytes.Buffer
			w.Reset(&b)
			_, _ = w.Write(data) // to memory
			_ = w.Close()
			sent = b.Bytes()
		}
		var size gzipSize
		pieces(sent, cuts, func(b []byte) { size.wrote(http.Header{"Content-Encoding": {"gzip"}}, b) })
		saved := size.saved()
		switch {
		case compress && saved != int64(max(0, len(data)-len(sent))):
			t.Errorf("%d bytes compressed to %d: %d are counted as saved", len(data), len(sent), saved)
		case saved < 0 || saved > int64(len(sent))*deflateRatio:
			t.Errorf("%d bytes are counted as saved of %d", saved, len(sent))
		}
	})
}
