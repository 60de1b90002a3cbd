package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// A baseline that does not do what it is said to do would make any contender look good: one read runs, one waits, and
// nobody gets one that began before he asked.
func TestOneRunsAndOneWaits(t *testing.T) {
	began, release := make(chan int, 10), make(chan struct{})
	reads := 0
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reads++ // one at a time, or the race detector says so
		began <- reads
		<-release
		fmt.Fprint(w, reads)
	}))
	defer upstream.Close()
	u, err := url.Parse(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{upstream: u, transport: &http.Transport{DisableCompression: true}, waiting: map[string]*batch{}, running: map[string]*sync.Mutex{}}
	defer p.transport.CloseIdleConnections()
	entered := make(chan struct{}, 100)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		p.list(w, r)
	}))
	defer front.Close()
	var clients sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	ask := func() {
		clients.Go(func() {
			response, err := http.Get(front.URL + "/api/v1/pods")
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Error(response.Status, err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[string(body)]++
		})
	}
	ask()
	<-entered
	<-began
	for range 50 { // all of them come too late for the first
		ask()
	}
	for range 50 {
		<-entered
	}
	release <- struct{}{}
	<-began
	close(release)
	clients.Wait()
	// A scheduler may hold a few back until the second has begun.
	if answers["1"] != 1 || reads > 5 {
		t.Errorf("%d reads, answers %v", reads, answers)
	}
}
