package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/flow"
)

// stage is an API server in memory, for what depends on time only: how it answers each watch is the test's. What a
// real one answers is tested on a real one.
type stage struct {
	mu     sync.Mutex
	asked  []string // the versions asked from, in order
	at     []time.Duration
	began  time.Time
	answer func(n int, r *http.Request) (*http.Response, error)
}

func (s *stage) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := len(s.asked)
	s.asked = append(s.asked, r.URL.Query().Get("resourceVersion"))
	s.at = append(s.at, time.Since(s.began))
	s.mu.Unlock()
	return s.answer(n, r)
}

func (s *stage) versions() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, " ")
}

// stream is a watch that is answered, and stays open until the test or the caller ends it.
type stream struct {
	*io.PipeWriter
}

func answered(r *http.Request) (*http.Response, stream) {
	pr, pw := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = pw.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: pr}, stream{pw}
}

func (s stream) send(typ string, version int) {
	_, _ = io.WriteString(s, event(typ, version))
}

func event(typ string, version int) string {
	return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":"a","resourceVersion":"%d"}}}`+"\n", typ, version)
}

// client is who reads a subscriber's stream.
type client struct {
	mu      sync.Mutex
	header  http.Header
	code    int
	body    bytes.Buffer
	flushes int
	block   chan struct{} // while set, writes wait for it
	err     error
	ended   bool
	at      time.Duration
	cancel  context.CancelFunc
}

func (c *client) Header() http.Header { return c.header }
func (c *client) WriteHeader(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code = code
}

func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	block := c.block
	c.mu.Unlock()
	if block != nil {
		<-block
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.Write(b)
}

func (c *client) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushes++
}

// got is the types and versions the client was sent.
func (c *client) got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for line := range strings.Lines(c.body.String()) {
		typ := strings.Split(line, `"`)[3]
		version := strings.Split(line, `"resourceVersion":"`)
		if len(version) > 1 {
			typ += " " + strings.TrimRight(strings.Split(version[1], `"`)[0], "\n")
		}
		all = append(all, typ)
	}
	return strings.Join(all, ", ")
}

func (c *client) over() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.err
}

type theatre struct {
	*Hub
	*stage
	t *testing.T
}

func open(t *testing.T, o Options, answer func(n int, r *http.Request) (*http.Response, error)) *theatre {
	s := &stage{answer: answer, began: time.Now()}
	o.Upstream, o.Budget, o.Log, o.Registerer = s, &locked{purse: purse{most: 1 << 30}}, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry()
	h := New(o)
	t.Cleanup(h.Close)
	return &theatre{h, s, t}
}

type locked struct {
	sync.Mutex
	purse
}

func (l *locked) Take(n int) bool {
	l.Lock()
	defer l.Unlock()
	return l.purse.Take(n)
}

func (l *locked) Give(n int) {
	l.Lock()
	defer l.Unlock()
	l.purse.Give(n)
}

// follow starts a subscriber.
func (h *theatre) follow(from uint64, o Subscriber) *client { return h.followPart(from, "", o) }

// followPart starts one with a selector.
func (h *theatre) followPart(from uint64, selector string, o Subscriber) *client {
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	c := &client{header: http.Header{}, cancel: cancel}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://gate/api/v1/pods?watch=1&resourceVersion="+strconv.FormatUint(from, 10)+"&labelSelector="+selector, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	go func() {
		err := h.Follow(c, r, f, from, o)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err, c.ended, c.at = err, true, time.Since(h.began)
	}()
	return c
}

func (h *theatre) want(what, got, want string) {
	h.t.Helper()
	if got != want {
		h.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (h *theatre) wantOver(c *client, want bool) {
	h.t.Helper()
	if over, err := c.over(); over != want || err != nil {
		h.t.Errorf("after %s: the stream is over: %t (%v), want %t", time.Since(h.began), over, err, want)
	}
}

var errUnreachable = errors.New("unreachable")

// pass lets time pass, and everything happen that is due.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// Subscribers do not notice that the watch ends upstream: it is taken up from the newest version, a bookmark's too.
func TestResumesFromBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 1:
				return nil, errUnreachable
			case 2:
				return &http.Response{StatusCode: 429, Header: http.Header{"Retry-After": {"3"}}, Body: http.NoBody}, nil
			}
			response, s := answered(r)
			go func() {
				s.send("ADDED", 11+10*n)
				s.send("BOOKMARK", 15+10*n)
				if n == 0 {
					_, _ = io.WriteString(s, `{"type":"ADDED","object":{"metadata":{"resourceVersion":"16"`) // cut off
					_ = s.Close()
				}
			}()
			return response, nil
		})
		quiet := h.follow(10, Subscriber{})
		asked := h.follow(10, Subscriber{Bookmarks: true})
		pass(time.Minute)
		h.want("asked from", h.versions(), "10 15 15 15")
		h.want("without bookmarks", quiet.got(), "ADDED 11, ADDED 41")
		h.want("with bookmarks", asked.got(), "ADDED 11, BOOKMARK 15, ADDED 41, BOOKMARK 45")
		if h.at[3]-h.at[2] < 1500*time.Millisecond {
			t.Errorf("asked again %s after a 429 that said 3 s", h.at[3]-h.at[2])
		}
		h.wantOver(quiet, false)
		if !h.Current("/api/v1/pods", "", "", 41) || h.Current("/api/v1/pods", "", "", 40) || h.Current("/api/v1/nodes", "", "", 41) {
			t.Error("the newest event is 41: 41 is current, 40 is not")
		}
	})
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			response, _ := answered(r)
			return response, nil
		})
		short, long := h.follow(10, Subscriber{Timeout: 5 * time.Second}), h.follow(10, Subscriber{})
		pass(5*time.Second - 1)
		h.wantOver(short, false)
		pass(2)
		h.wantOver(short, true)
		pass(30*time.Minute - 6*time.Second)
		h.wantOver(long, false)
		pass(30*time.Minute + 6*time.Second)
		h.wantOver(long, true)
		pass(10 * time.Second)
		if n := len(h.Status()); n != 0 {
			t.Errorf("%d watches are left after everyone has gone and some time", n)
		}
		h.want("asked from", h.versions(), "10")
	})
}

func TestLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var upstream context.Context
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			upstream = r.Context()
			response, s := answered(r)
			go s.send("ADDED", 11)
			return response, nil
		})
		first := h.follow(10, Subscriber{})
		pass(time.Second)
		first.cancel()
		pass(9 * time.Second)
		second := h.follow(10, Subscriber{})
		pass(20 * time.Second)
		h.want("the second, from the ring", second.got(), "ADDED 11")
		h.want("asked from", h.versions(), "10")
		second.cancel()
		pass(11 * time.Second)
		if upstream.Err() == nil {
			t.Error("the upstream watch goes on without anyone")
		}
		third := h.follow(10, Subscriber{})
		pass(time.Second)
		h.want("asked from", h.versions(), "10 10")
		h.wantOver(third, false)
	})
}

// While no API server answers, subscribers are held; when that takes too long they end, spread over a while.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up stream
		h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
			if n > 0 {
				return nil, errUnreachable
			}
			var response *http.Response
			response, up = answered(r)
			return response, nil
		})
		var all []*client
		for range 100 {
			all = append(all, h.follow(10, Subscriber{}))
		}
		pass(time.Minute)
		_ = up.CloseWithError(errUnreachable)
		lost := time.Since(h.began)
		late := h.follow(10, Subscriber{}) // held like the others: the ring is there
		pass(29 * time.Second)
		h.wantOver(all[0], false)
		h.wantOver(late, false)
		pass(15 * time.Second)
		first, last := time.Hour, time.Duration(0)
		for _, c := range all {
			h.wantOver(c, true)
			first, last = min(first, c.at-lost), max(last, c.at-lost)
		}
		if first < 30*time.Second || last-first < 5*time.Second || last > 43*time.Second {
			t.Errorf("the streams ended %s to %s after the loss", first, last)
		}
		fresh := h.follow(10, Subscriber{})
		pass(time.Second)
		var notShared *NotSharedError
		if _, err := fresh.over(); !errors.As(err, &notShared) || notShared.Reason != ReasonUpstream || fresh.code != 0 || fresh.body.Len() > 0 {
			t.Errorf("a new one is answered %v (status %d), want that it be forwarded", err, fresh.code)
		}
	})
}

func TestRechecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			response, _ := answered(r)
			return response, nil
		})
		var asked [3]int
		subscriber := func(i int, allowed bool, err error) Subscriber {
			return Subscriber{Recheck: func(context.Context) (bool, error) {
				asked[i]++
				return allowed, err
			}}
		}
		fine, unknown, denied := h.follow(10, subscriber(0, true, nil)), h.follow(10, subscriber(1, false, errUnreachable)), h.follow(10, subscriber(2, false, nil))
		pass(47 * time.Second)
		h.wantOver(denied, false)
		pass(26 * time.Second)
		h.wantOver(denied, true)
		pass(9 * time.Minute)
		h.wantOver(fine, false)
		h.wantOver(unknown, false)
		if asked[0] < 7 || asked[0] > 12 || asked[1] < 7 || asked[2] != 1 {
			t.Errorf("asked %v times in ten minutes, want about 10, 10 and 1", asked)
		}
	})
}

const gone = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Expired","code":410}}` + "\n"

// 410 is for those whose version it was about. Who knows more goes on from a new watch.
func TestGoneIsForTheOld(t *testing.T) {
	for name, answer := range map[string]func(r *http.Request) *http.Response{
		"as an event": func(r *http.Request) *http.Response {
			response, s := answered(r)
			go func() {
				_, _ = io.WriteString(s, gone)
				_ = s.Close()
			}()
			return response
		},
		"as an answer": func(*http.Request) *http.Response {
			return &http.Response{StatusCode: http.StatusGone, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(gone))}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
					<-time.After(time.Second)
					if version, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion")); version < 20 {
						return answer(r), nil
					}
					response, s := answered(r)
					go s.send("ADDED", 31)
					return response, nil
				})
				old := h.follow(10, Subscriber{})
				synctest.Wait()
				young, between := h.follow(30, Subscriber{}), h.follow(12, Subscriber{})
				pass(10 * time.Second)
				h.wantOver(old, true)
				h.wantOver(between, true)
				h.wantOver(young, false)
				h.want("the old", old.got(), "ERROR")
				h.want("between", between.got(), "ERROR")
				h.want("the young", young.got(), "ADDED 31")
				if want := map[string]int{"as an event": 200, "as an answer": 410}[name]; old.code != want {
					t.Errorf("the old one's status is %d, want %d", old.code, want)
				}
			})
		})
	}
}

// A reader that takes nothing is ended when an event it has not had is let go; nobody else notices.
func TestSlowSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up stream
		h := open(t, Options{Events: 5}, func(n int, r *http.Request) (*http.Response, error) {
			var response *http.Response
			response, up = answered(r)
			return response, nil
		})
		slow, fast := h.follow(10, Subscriber{}), h.follow(10, Subscriber{})
		pass(5 * time.Second)
		slow.mu.Lock()
		slow.block = make(chan struct{})
		slow.mu.Unlock()
		want := []string{}
		for i := range 20 {
			up.send("MODIFIED", 11+i)
			want = append(want, fmt.Sprint("MODIFIED ", 11+i))
			pass(time.Millisecond)
		}
		h.want("the fast", fast.got(), strings.Join(want, ", "))
		close(slow.block)
		pass(time.Millisecond)
		h.want("the slow", slow.got(), "MODIFIED 11")
		h.wantOver(slow, true)
		h.wantOver(fast, false)
		if got := len(h.Status()); got != 1 {
			t.Errorf("%d watches, want 1", got)
		}
	})
}

// Events that come together are written with one flush.
func TestOneFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up stream
		h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
			var response *http.Response
			response, up = answered(r)
			return response, nil
		})
		c := h.follow(10, Subscriber{})
		pass(time.Second)
		before := c.flushes
		_, _ = io.WriteString(up, event("ADDED", 11)+event("ADDED", 12)+event("ADDED", 13)+event("BOOKMARK", 14))
		pass(time.Millisecond)
		h.want("got", c.got(), "ADDED 11, ADDED 12, ADDED 13")
		if got := c.flushes - before; got != 1 {
			t.Errorf("%d flushes, want 1", got)
		}
	})
}

// A subscriber from before the ring has a watch of its own until it knows of everything that is not there.
func TestCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ups := map[int]stream{}
		h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
			response, s := answered(r)
			ups[n] = s
			return response, nil
		})
		young := h.follow(20, Subscriber{})
		synctest.Wait()
		old := h.follow(10, Subscriber{})
		pass(time.Second)
		ups[0].send("ADDED", 25)
		ups[1].send("ADDED", 12)
		ups[1].send("ADDED", 19)
		pass(time.Second)
		h.want("the old", old.got(), "ADDED 12, ADDED 19")
		if got := h.Status()[0]; got.CatchingUp != 1 || got.Readers != 2 {
			t.Errorf("status %+v, want 1 of 2 catching up", got)
		}
		// One read brings more than is wanted: from 20 on the ring has it.
		_, _ = io.WriteString(ups[1], event("BOOKMARK", 20)+event("ADDED", 25))
		pass(time.Second)
		if _, err := io.WriteString(ups[1], "x"); err == nil {
			t.Error("the subscriber's own watch is still open")
		}
		ups[0].send("DELETED", 26)
		pass(time.Second)
		h.want("the old", old.got(), "ADDED 12, ADDED 19, ADDED 25, DELETED 26")
		h.want("the young", young.got(), "ADDED 25, DELETED 26")
		h.want("asked from", h.versions(), "20 10")
		if got := h.Status()[0]; got.CatchingUp != 0 || got.Events != 2 || got.Floor != 20 || got.Head != 26 || !got.Live {
			t.Errorf("status %+v", got)
		}
	})
}

// A watch that is not understood ends, and is left to the API server from then on.
func TestGarbled(t *testing.T) {
	for name, sent := range map[string]string{
		"not a frame":      "hello\n",
		"versions go back": event("ADDED", 20) + event("ADDED", 12),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
					response, s := answered(r)
					go func() { _, _ = io.WriteString(s, sent) }()
					return response, nil
				})
				c := h.follow(10, Subscriber{})
				pass(time.Second)
				h.wantOver(c, true)
				if strings.Contains(c.got(), "12") || strings.Contains(c.body.String(), "hello") {
					t.Errorf("got %q", c.body.String())
				}
				again := h.follow(10, Subscriber{})
				pass(time.Second)
				var notShared *NotSharedError
				if _, err := again.over(); name == "not a frame" && (!errors.As(err, &notShared) || notShared.Reason != ReasonMediaType) {
					t.Errorf("the next is answered %v, want that it be forwarded", err)
				}
			})
		})
	}
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			response, _ := answered(r)
			return response, nil
		})
		c := h.follow(10, Subscriber{})
		pass(time.Second)
		h.Flush("apps", "pods")
		pass(time.Second)
		h.wantOver(c, false)
		h.Flush("", "pods")
		pass(time.Second)
		h.wantOver(c, true)
		if n := len(h.Status()); n != 0 {
			t.Errorf("%d watches are left", n)
		}
	})
}

// Without memory for a single event nobody is held: the API server serves them.
func TestNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up stream
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			var response *http.Response
			response, up = answered(r)
			return response, nil
		})
		c := h.follow(10, Subscriber{})
		pass(5 * time.Second)
		h.o.Budget.(*locked).most = 10
		up.send("ADDED", 11)
		pass(time.Second)
		h.wantOver(c, true)
		other := h.follow(11, Subscriber{})
		pass(time.Second)
		var notShared *NotSharedError
		if _, err := other.over(); !errors.As(err, &notShared) || notShared.Reason != ReasonMemory {
			t.Errorf("the next is answered %v, want that it be forwarded", err)
		}
	})
}

// One client's version that will never come does not keep the others from sharing for long.
func TestNonsenseVersionIsRetired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := open(t, Options{}, func(n int, r *http.Request) (*http.Response, error) {
			response, s := answered(r)
			if r.URL.Query().Get("resourceVersion") == "1000000" {
				return response, nil
			}
			began := time.Now()
			go func() {
				for {
					select {
					case <-time.After(time.Minute):
						s.send("BOOKMARK", 100+int(began.Sub(start).Minutes())+int(time.Since(began).Minutes()))
					case <-r.Context().Done():
						return
					}
				}
			}()
			return response, nil
		})
		nonsense := h.follow(1_000_000, Subscriber{})
		synctest.Wait()
		var all []*client
		for range 10 {
			all = append(all, h.follow(100, Subscriber{Timeout: time.Hour}))
		}
		pass(10 * time.Minute)
		catching := 0
		for _, s := range h.Status() {
			catching += s.CatchingUp
		}
		if catching != 0 {
			t.Errorf("%d still have a watch of their own", catching)
		}
		h.wantOver(nonsense, false)
		h.wantOver(all[0], false)
		nonsense.cancel()
		pass(time.Second)
		if status := h.Status(); len(status) != 1 || status[0].Readers != 10 {
			t.Errorf("status %+v, want one watch for the ten", status)
		}
	})
}

// Sources that nobody reads linger only so many.
func TestFewLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{Linger: time.Hour}, func(_ int, r *http.Request) (*http.Response, error) {
			response, _ := answered(r)
			return response, nil
		})
		for i := range mostIdle + 50 {
			s, err := h.attach(key{what: what{path: strconv.Itoa(i)}}, 10)
			if err != nil {
				t.Fatal(err)
			}
			s.leave()
		}
		pass(time.Second)
		if n := len(h.Status()); n != mostIdle || h.idle.Load() != mostIdle {
			t.Errorf("%d watches linger (%d counted), want %d", n, h.idle.Load(), mostIdle)
		}
		s, err := h.attach(key{what: what{path: "1"}}, 10)
		if err != nil || h.idle.Load() != mostIdle-1 {
			t.Errorf("%d are counted after one is read again (%v)", h.idle.Load(), err)
		}
		s.leave()
		pass(time.Hour + time.Second)
		if n := len(h.Status()); n != 0 || h.idle.Load() != 0 {
			t.Errorf("%d are left (%d counted)", n, h.idle.Load())
		}
	})
}

// Where the objects of a resource find no memory, each selection has its own watch; and that is not found out again for
// each who comes.
func TestFilterWithoutMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wholes := 0
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			response, s := answered(r)
			whole := r.URL.Query().Get("sendInitialEvents") == "true"
			if whole {
				wholes++
			}
			go func() {
				for i := 1; whole; i++ {
					if _, err := io.WriteString(s, strings.Replace(event("ADDED", i), `"name":"a"`, fmt.Sprintf(`"name":"a-%d"`, i), 1)); err != nil {
						return
					}
				}
				s.send("ADDED", 2001)
			}()
			return response, nil
		})
		h.o.Budget.(*locked).most = 50_000
		first := h.followPart(2000, "app=a", Subscriber{Filter: true})
		pass(time.Second)
		second := h.followPart(2000, "app=b", Subscriber{Filter: true})
		pass(time.Second)
		h.want("first", first.got(), "ADDED 2001")
		h.want("second", second.got(), "ADDED 2001")
		if status := h.Status(); len(status) != 2 || wholes != 1 {
			t.Errorf("%d wholes were tried, and %+v is watched", wholes, status)
		}
	})
}

// What nothing happened to in the whole has nothing happened to in its parts.
func TestCurrentOfParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, Options{}, func(_ int, r *http.Request) (*http.Response, error) {
			response, s := answered(r)
			go s.send("ADDED", 12)
			return response, nil
		})
		h.follow(10, Subscriber{})
		pass(time.Second)
		for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces/a/pods"} {
			if !h.Current(path, "app=a", "", 12) || h.Current(path, "app=a", "", 11) || h.Current(path, "", "", 9) {
				t.Errorf("%s is not current, or too much is", path)
			}
		}
		for _, path := range []string{"/api/v1/namespaces/a/pods/b", "/api/v1/namespaces/pods", "/api/v1/nodes"} {
			if h.Current(path, "", "", 12) {
				t.Errorf("%s is no part of what is watched", path)
			}
		}
	})
}
