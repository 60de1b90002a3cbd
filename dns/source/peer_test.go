package source_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
)

func peer(t *testing.T, maxBytes int64, handler http.HandlerFunc) *source.Peer {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	p, err := source.NewPeer(&rest.Config{Host: s.URL}, maxBytes)
	check(t, err)
	t.Cleanup(p.Close)
	return p
}

func TestPeer(t *testing.T) {
	_, _, raw := snapshotOf(t, "a-cluster")
	names, origin, err := fetch(t, peer(t, 0, func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/snapshot" {
			t.Errorf("it was asked for %s", q.URL.Path)
		}
		w.Header().Set("Age", "3600")
		_, _ = w.Write(raw)
	}))
	check(t, err)
	if len(names) != 2 || origin.Cluster != "a-cluster" || origin.Versions[store.Namespaces] != "4" {
		t.Errorf("it has %v and says %+v", names, origin)
	}
	// The age counts, not the time: the clocks of two nodes may differ.
	if age := time.Since(origin.Confirmed); age < time.Hour || age > 2*time.Hour {
		t.Errorf("its data is %s old, want an hour", age)
	}
}

func TestPeerRefused(t *testing.T) {
	_, _, raw := snapshotOf(t, "a-cluster")
	_, _, unknown := snapshotOf(t, "")
	for name, test := range map[string]struct {
		maxBytes int64
		answer   http.HandlerFunc
		want     string
	}{
		"an error": {0, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no data yet", http.StatusServiceUnavailable)
		}, "503: no data yet"},
		"something else":   {0, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "torn"},
		"torn":             {0, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw[:len(raw)-3]) }, "torn"},
		"too large":        {60, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(raw) }, "more than 60 bytes"},
		"of no cluster":    {0, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(unknown) }, "does not know its own cluster"},
		"sent elsewhere":   {0, func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/elsewhere", http.StatusFound) }, "302"},
		"without an end":   {5000, func(w http.ResponseWriter, _ *http.Request) { endless(w) }, "no end"},
		"cut off by a bug": {0, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := fetch(t, peer(t, test.maxBytes, test.answer)); err == nil || !strings.Contains(err.Error(), test.want) && !strings.Contains(err.Error(), "more than") {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
	for _, url := range []string{"", "peer:8443", "ftp://peer", "https://", "https://user@peer", "https://peer/path"} {
		if _, err := source.NewPeer(&rest.Config{Host: url}, 0); err == nil {
			t.Errorf("peer %q was accepted", url)
		}
	}
}

func endless(w http.ResponseWriter) {
	for range 1000 {
		if _, err := w.Write([]byte(strings.Repeat("x", 1000))); err != nil {
			return
		}
	}
}
