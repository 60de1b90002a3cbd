package transparency_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/gatetest"
)

// stream is an answer that does not end by itself.
type stream struct {
	t     *testing.T
	lines chan string
	ended chan error
	stop  func()
}

func open(t *testing.T, s *side, target, accept string) *stream {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.host+target, nil)
	check(t, err)
	for name, values := range s.header {
		request.Header[name] = values
	}
	request.Header.Set("Accept", accept)
	client := *s.client
	client.Timeout = 0
	response, err := client.Do(request)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", target, response.Status)
	}
	o := &stream{t: t, lines: make(chan string, 1000), ended: make(chan error, 1), stop: stop}
	go func() {
		defer response.Body.Close()
		lines := bufio.NewReaderSize(response.Body, 1<<20)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				o.lines <- line
			}
			if err != nil {
				o.ended <- err
				close(o.lines)
				return
			}
		}
	}()
	return o
}

// next is what came next, which must come while the stream is open and nothing follows: a gate that waited for more before
// it passed something on would never pass this on.
func (o *stream) next(what string) string {
	o.t.Helper()
	select {
	case line, ok := <-o.lines:
		if !ok {
			o.t.Fatalf("the stream ended before %s: %v", what, <-o.ended)
		}
		return line
	case <-time.After(20 * time.Second):
		o.t.Fatalf("%s did not arrive", what)
	}
	return ""
}

// nextChange skips bookmarks, which an API server sends when it likes: about once a minute, and some minors also soon
// after the initial events.
func nextChange(s *stream, what string) string {
	for {
		if event := s.next(what); !isBookmark(event) {
			return event
		}
	}
}

func isBookmark(event string) bool { return strings.HasPrefix(event, `{"type":"BOOKMARK"`) }

// TestWatch opens the same watch direct and through the gate, changes the world, and wants the same bytes of both while
// both stay open: every event by itself, a bookmark, and nothing else.
func TestWatch(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	w := prepare(t, l)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			direct, gate := v.sides(n, w.vars, w.vars)
			const path = "/api/v1/namespaces/" + readNamespace + "/configmaps?watch=true&allowWatchBookmarks=true&sendInitialEvents=true" +
				"&resourceVersionMatch=NotOlderThan&labelSelector=of%3Dwatch"
			watches := []*stream{open(t, direct, path, "application/json"), open(t, gate, path, "application/json")}
			both := func(what string) (event string) {
				t.Helper()
				event = nextChange(watches[0], what)
				if diff := cmp.Diff(event, nextChange(watches[1], what)); diff != "" {
					t.Errorf("%s (-direct +gate):\n%s", what, diff)
				}
				return event
			}
			for i, s := range watches {
				if bookmark := s.next("the end of the initial events"); !strings.Contains(bookmark, "k8s.io/initial-events-end") {
					t.Errorf("watch %d begins with %s", i, bookmark)
				}
			}
			send := func(method, target, contentType, body string, status int) {
				t.Helper()
				step := newStep(0, method, target)
				step.header.Set("Content-Type", contentType)
				step.body, step.hasBody = body, body != ""
				if a := gate.send(t, step); a.status != status {
					t.Fatalf("%s %s: %d %s", method, target, a.status, a.body)
				}
			}
			const object = "/api/v1/namespaces/" + readNamespace + "/configmaps"
			send("POST", object, "application/json", `{"metadata":{"name":"watched","labels":{"of":"watch"}}}`, 201)
			if event := both("the first event"); !strings.Contains(event, `"type":"ADDED"`) {
				t.Errorf("got %s", event)
			}
			for i := range 20 {
				send("PATCH", object+"/watched", "application/merge-patch+json", fmt.Sprintf(`{"data":{"i":"%d"}}`, i), 200)
				if event := both(fmt.Sprintf("change %d", i)); !strings.Contains(event, fmt.Sprintf(`"i":"%d"`, i)) {
					t.Errorf("got %s", event)
				}
			}
			send("DELETE", object+"/watched", "application/json", "", 200)
			if event := both("the last event"); !strings.Contains(event, `"type":"DELETED"`) {
				t.Errorf("got %s", event)
			}
			for i, s := range watches {
				select {
				case line, ok := <-s.lines:
					if !ok || !isBookmark(line) {
						t.Errorf("watch %d got %q, open %v, after the last event", i, line, ok)
					}
				default:
				}
			}
		})
	}
}

// TestFollowedLog follows a container's log, which grows a line at a time.
func TestFollowedLog(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	w := prepare(t, l)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			direct, gate := v.sides(n, w.vars, w.vars)
			path := "/api/v1/namespaces/" + w.vars["podns"] + "/pods/" + w.vars["pod"] + "/log?follow=true&timestamps=true"
			logs := []*stream{open(t, direct, path, "*/*"), open(t, gate, path, "*/*")}
			for i := range 5 {
				want := fmt.Sprintf("%s: line %d\n", name, i)
				check(t, l.AppendContainerLog(strings.TrimSuffix(want, "\n")))
				for _, s := range logs {
					for {
						line := s.next("a line of the log")
						if strings.HasSuffix(line, want) {
							break
						} else if strings.Contains(line, name+": ") {
							t.Fatalf("got %q before %q", line, want)
						}
					}
				}
			}
		})
	}
}
