package watch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

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
