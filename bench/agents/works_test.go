package agents

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

func serveTLS(t *testing.T, handler http.HandlerFunc) (url string, ca []byte) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// Agents that write and agents that open watches send what they should, share connections as told, and go on until they
// are released.
func TestWorks(t *testing.T) {
	for work, want := range map[Work]string{
		Patch: "PATCH /one application/merge-patch+json", WatchOpen: "GET /one?watch=true ",
	} {
		t.Run(string(work), func(t *testing.T) {
			var late, refused atomic.Int64
			held, released := make(chan struct{}), make(chan struct{})
			var mu sync.Mutex
			seen, connections := map[string]bool{}, map[string]bool{}
			url, ca := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				seen[r.Method+" "+r.URL.String()+" "+r.Header.Get("Content-Type")] = true
				connections[r.RemoteAddr] = true
				mu.Unlock()
				select {
				case <-held:
					if late.Add(1) == 1 {
						close(released)
					}
				default:
				}
				if refused.Add(1) == 1 {
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				if work == WatchOpen {
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done() // the agent leaves
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "{}")
			})
			path := strings.Fields(want)[1]
			spec := &Spec{
				URL: url, CA: ca, Does: work, Paths: []string{path}, Tokens: make([]string, 4), PerConnection: 2,
				Period: 10 * time.Millisecond, Measure: 200 * time.Millisecond, Hold: true,
			}
			o, err := Run(t.Context(), spec, released, func(event string) {
				if event == Ended {
					close(held)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if o.Delivered == 0 || o.Refused != 1 || o.Failed != 0 || late.Load() == 0 {
				t.Errorf("got %+v, %d after the end", o, late.Load())
			}
			if len(seen) != 1 || !seen[want] || len(connections) != 2 {
				t.Errorf("seen %v over %d connections", seen, len(connections))
			}
		})
	}
}

// An informer is in sync, its watch breaks, it resumes; its watch breaks again, what it had is too old, it LISTs anew.
func TestInformers(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	var watches atomic.Int64
	breaks := make(chan struct{})
	url, ca := serveTLS(t, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		mu.Lock()
		asked = append(asked, query.Get("labelSelector")+query.Get("watch")+"@"+query.Get("resourceVersion"))
		mu.Unlock()
		if query.Get("watch") == "" {
			_, _ = io.WriteString(w, two)
			return
		}
		switch watches.Add(1) {
		case 1:
			_, _ = io.WriteString(w, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`+"\n")
			_ = http.NewResponseController(w).Flush()
			<-breaks
		case 2:
			w.WriteHeader(http.StatusGone)
		default:
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	released := make(chan struct{})
	synced := 0
	o, err := RunInformers(t.Context(), &Spec{URL: url, CA: ca, Does: Inform, Paths: []string{"/pods?labelSelector=a"}, Tokens: make([]string, 1)}, released, func(event string) {
		if event != Synced {
			t.Errorf("it says %s", event)
		}
		if synced++; synced == 1 {
			close(breaks)
		} else {
			close(released)
		}
	})
	if err != nil || synced != 2 || o.Delivered != 2 || o.InSync != 1 || o.Failed+o.Refused != 0 {
		t.Fatalf("in sync %d times, %+v, %v", synced, o, err)
	}
	const want = "a@0 atrue@7 atrue@9 a@ atrue@7"
	if got := strings.Join(asked, " "); got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestFollowReadsEventsHoweverTheyCome(t *testing.T) {
	long := strings.Repeat("x", 10<<10)
	const event = `{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"8"}}}` + "\n"
	stream := `{"type":"ADDED","object":{"metadata":{"resourceVersion":"6","name":"` + long + `"}}}` + "\n" + event
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			if version, _, err := follow(wrap(strings.NewReader(stream)), "1"); version != "8" || err != nil {
				t.Errorf("got %q, %v", version, err)
			}
			if _, _, err := follow(wrap(strings.NewReader(stream+`{"type":"ERROR","object":{"code":410}}`+"\n")), "1"); err == nil {
				t.Error("an error was taken for an event")
			}
		})
	}
}
