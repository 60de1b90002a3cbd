package agents

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

const two = `{"kind":"PodList","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}` + "\n"

func packed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCheckerBelievesOnlyWhatItCounted(t *testing.T) {
	large := strings.Replace(two, `"items":[`, `"items":[`+strings.Repeat(`{"metadata":{"name":"x"}},`, 10000), 1)
	for name, tc := range map[string]struct {
		body    string
		packed  bool
		objects int
		want    bool
	}{
		"complete":                {two, false, 2, true},
		"complete, packed":        {packed(t, two), true, 2, true},
		"complete, large":         {large, false, 10002, true},
		"complete, large, packed": {packed(t, large), true, 10002, true},
		"an object is missing":    {two, false, 3, false},
		"cut":                     {two[:len(two)-3], false, 2, false},
		"cut, packed":             {packed(t, two)[:40], true, 2, false},
		"nothing":                 {"", false, 2, false},
		"an error":                {`{"kind":"Status","code":500}` + "\n", false, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChecker(tc.objects)
			for range keepers + 2 {
				got, _, err := c.read(iotest.HalfReader(strings.NewReader(tc.body)), tc.packed)
				if err != nil {
					t.Fatal(err)
				}
				if complete, why := c.complete(got); complete != tc.want {
					t.Errorf("complete is %t (%s)", complete, why)
				}
			}
			if c.kept != 0 {
				t.Errorf("%d bytes are still kept", c.kept)
			}
		})
	}
	t.Run("the rest of a known beginning", func(t *testing.T) {
		c := newChecker(10002)
		for range keepers {
			if _, _, err := c.read(strings.NewReader(large), false); err != nil {
				t.Fatal(err)
			}
		}
		got, _, err := c.read(strings.NewReader(large[:len(large)/2]), false)
		if complete, _ := c.complete(got); err != nil || complete {
			t.Errorf("half an answer was taken for a whole one: %v", err)
		}
	})
	t.Run("broken off", func(t *testing.T) {
		broken := io.MultiReader(strings.NewReader(two), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, _, err := newChecker(2).read(broken, false); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
}

func TestInitialEvents(t *testing.T) {
	const events = `{"type":"ADDED","object":{"metadata":{"name":"a"}}}` + "\n" + `{"type":"ADDED","object":{"metadata":{"name":"b"}}}` + "\n"
	const bookmark = `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}`
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readInitialEvents(wrap(strings.NewReader(events + bookmark + "\n" + events)))
			if err != nil || got.objects != 2 {
				t.Errorf("%d objects, %v", got.objects, err)
			}
			for why, cut := range map[string]string{"without a bookmark": events, "in the bookmark's line": events + bookmark} {
				if _, err := readInitialEvents(wrap(strings.NewReader(cut))); !errors.Is(err, errEndedEarly) {
					t.Errorf("%s: got %v", why, err)
				}
			}
		})
	}
}

// One answer in three is good: the agents must tell them apart, whatever their status.
func TestRunCountsWhatIsComplete(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+"secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch asked.Add(1) % 3 {
		case 0:
			_, _ = io.WriteString(w, two)
		case 1:
			_, _ = io.WriteString(w, strings.Replace(two, "}]}", "}", 1)) // 200, and not a list
		case 2:
			_, _ = io.WriteString(w, two[:20])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	spec := Spec{
		URL: server.URL, Does: List, Paths: []string{"/api/v1/pods"}, Tokens: []string{"secret", "secret"}, Period: 20 * time.Millisecond, Measure: 3 * time.Second, Objects: 2,
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
	in, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := serve(t.Context(), bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	var events []Event
	for decoder := json.NewDecoder(&out); ; {
		var e Event
		if err := decoder.Decode(&e); err != nil {
			break
		}
		events = append(events, e)
	}
	if len(events) != 3 || events[0].Event != Begun || events[1].Event != Ended || events[2].Outcome == nil {
		t.Fatalf("got %+v", events)
	}
	o := events[2].Outcome
	if o.Delivered == 0 || o.Wrong == 0 || o.Failed == 0 || o.Refused != 0 || o.Bytes != o.Delivered*int64(len(two)) {
		t.Errorf("got %+v", o)
	}
	if o.Size != float64(len(two)) || o.Received < o.Bytes || o.InPart() < o.PerSecond() {
		t.Errorf("counted in part: %+v", o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serve(ctx, bytes.NewReader(in), io.Discard); err == nil {
		t.Error("a run that was interrupted has a result")
	}
}

// Marks may be cut anywhere.
func TestTally(t *testing.T) {
	for size := 1; size < 60; size++ {
		var got tally
		for rest := []byte(two); len(rest) > 0; {
			n := min(size, len(rest))
			got.add(rest[:n])
			rest = rest[n:]
		}
		if n, err := got.objects(); n != 2 || err != nil {
			t.Errorf("in pieces of %d: %d objects, %v", size, n, err)
		}
	}
}
