package watch

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
