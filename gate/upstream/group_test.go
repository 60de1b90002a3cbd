package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/identity"
)

// A watch of the gate's own is moved as a client's is: it ends as if the API server had ended it. One without bookmarks,
// and a LIST, are left alone.
func TestOwnWatchesAreMoved(t *testing.T) {
	rig := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Query().Get("watch") != "" {
			<-r.Context().Done()
		}
	})
	server := rig.server("a", rig.backend.URL)
	way := Fixed(server).own(identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}), ProbeUser)
	open := func(query string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/pods?"+query, nil)
		check(t, err)
		response, err := way.RoundTrip(r)
		check(t, err)
		_, err = io.ReadFull(response.Body, make([]byte, len("first")))
		check(t, err)
		return response
	}
	moves, stays := open("watch=true&allowWatchBookmarks=true"), open("watch=true")
	if n := server.watches.count(); n != 1 {
		t.Fatalf("%d watches may be moved, want 1", n)
	}
	if young := server.watches.oldest(1, time.Now()); len(young) != 0 {
		t.Error("a watch that was just opened would be moved")
	}
	for _, old := range server.watches.oldest(5, time.Now().Add(time.Minute)) {
		old.end(fmt.Errorf("%w: %w", ErrEndStream, errEvenedOut))
	}
	if rest, err := io.ReadAll(moves.Body); err != nil || len(rest) > 0 {
		t.Errorf("the watch ends with %q, %v, want a clean end", rest, err)
	}
	check(t, moves.Body.Close())
	if n := server.watches.count(); n != 0 {
		t.Errorf("%d watches are kept after they ended", n)
	}
	check(t, stays.Body.Close())
	if _, err := io.ReadAll(stays.Body); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("reading a closed watch: %v", err)
	}
	list := open("limit=5")
	if _, err := io.ReadAll(list.Body); err != nil {
		t.Error(err)
	}
	check(t, list.Body.Close())
	if server.Busy() {
		t.Error("requests that ended hold places")
	}
}
