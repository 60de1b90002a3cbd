package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

var start = time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)

// holding is a keeper that holds some removals; what a real one holds is the keeper's tests' matter.
type holding struct {
	holds  []guard.Hold
	failed error
}

func (h *holding) Store() *store.Store { return store.New(time.Now) }

func (h *holding) Status() keeper.Status {
	return keeper.Status{State: keeper.Guarded, Source: "https://10.0.0.1:6443", Cluster: "uid", Confirmed: start.Add(-90 * time.Second), Held: len(h.holds)}
}

func (h *holding) Held(context.Context) ([]guard.Hold, error) { return h.holds, h.failed }

func (h *holding) Release(_ context.Context, match func(guard.Hold) bool) (int, error) {
	var left []guard.Hold
	for _, hold := range h.holds {
		if !match(hold) {
			left = append(left, hold)
		}
	}
	n := len(h.holds) - len(left)
	h.holds = left
	return n, h.failed
}

func hold(kind, namespace, name string) guard.Hold {
	return guard.Hold{Item: guard.Item{Kind: kind, Namespace: namespace, Name: name}, Since: start, Until: start.Add(10 * time.Minute), Endpoints: 3}
}

func serve(t *testing.T, k Keeper) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: Handler(k, func() time.Time { return start })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return path
}

func TestCommands(t *testing.T) {
	tests := map[string]struct {
		args     string
		wantCode int
		wantOut  string
		wantErr  string
		wantLeft int
	}{
		"state":                 {"state", 0, "state    guarded\nage      1m30s\nsource   https://10.0.0.1:6443\n", "", 4},
		"state as JSON":         {"state -o json", 0, `"ageSeconds":90`, "", 4},
		"show":                  {"guard show", 0, "endpointslices  shop       web-x  3", "", 4},
		"show as JSON":          {"guard show -o json", 0, `"kind":"endpointslices"`, "", 4},
		"release a namespace":   {"guard release --namespace shop", 0, "3 held removals were applied\n", "", 1},
		"release one":           {"guard release --namespace shop --name web-x", 0, "1 held removals", "", 3},
		"release a kind of one": {"guard release --namespace shop --kind services", 0, "1 held removals", "", 3},
		"release all":           {"guard release --all", 0, "4 held removals", "", 0},
		"release nothing":       {"guard release", 2, "", "say what to release", 4},
		"release both":          {"guard release --all --name x", 2, "", "say what to release", 4},
		"an unknown verb":       {"guard forget", 2, "", `"guard forget" is no command`, 4},
		"an unknown flag":       {"state --sockets x", 2, "", "sockets", 4},
		"an unknown output":     {"state -o yaml", 2, "", `got "yaml"`, 4},
		"too much":              {"state now", 2, "", `"now" is not expected`, 4},
		"help":                  {"guard --help", 0, "Examples:", "", 4},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			k := &holding{holds: []guard.Hold{
				hold("endpointslices", "shop", "web-x"), hold("services", "shop", "web"), hold("namespaces", "", "shop"), hold("endpointslices", "bank", "db-x"),
			}}
			args := strings.Fields(tc.args)
			if !Is(args) {
				t.Fatalf("%q is taken for CoreDNS's", tc.args)
			}
			if tc.wantCode == 0 && name != "help" {
				args = append(args, "--socket", serve(t, k))
			}
			var out, errs strings.Builder
			if code := Run(t.Context(), args, &out, &errs); code != tc.wantCode || !strings.Contains(out.String(), tc.wantOut) || !strings.Contains(errs.String(), tc.wantErr) {
				t.Errorf("ends with %d, says %q and %q", code, out.String(), errs.String())
			}
			if len(k.holds) != tc.wantLeft {
				t.Errorf("%d holds are left, want %d", len(k.holds), tc.wantLeft)
			}
		})
	}
}

func TestServerIsNotThereOrRefuses(t *testing.T) {
	for name, socket := range map[string]string{
		"nobody there": filepath.Join(t.TempDir(), "none"),
		"it fails":     serve(t, &holding{failed: errors.New("the keeper has ended")}),
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			if code := Run(t.Context(), []string{"guard", "show", "--socket", socket}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "hint:") {
				t.Errorf("ends with %d and says %q", code, errs.String())
			}
		})
	}
	if Is(nil) || Is([]string{"-conf", "guard"}) {
		t.Error("CoreDNS's flags are taken for a sub-command")
	}
}

// The address of /state may be reached by anybody: it must not release, nor name objects.
func TestStateHandlerShowsTheStateOnly(t *testing.T) {
	s := httptest.NewServer(StateHandler(&holding{}, time.Now))
	defer s.Close()
	for path, want := range map[string]int{"/state": http.StatusOK, "/guard": http.StatusNotFound, "/guard/release?all=true": http.StatusNotFound} {
		answer, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("GET %s answers %d, want %d", path, answer.StatusCode, want)
		}
	}
	answer, err := http.Post(s.URL+"/state", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /state answers %d", answer.StatusCode)
	}
}
