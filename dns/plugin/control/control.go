// Package control is how an operator looks into a running seakeep-dns and tells it what to do: HTTP on a unix socket, and
// the sub-commands that speak it. It works without an API server, and without DNS.
package control

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/keeper"
)

// Keeper is what is controlled; *keeper.Keeper is one.
type Keeper interface {
	keeper.Data
	Held(ctx context.Context) ([]guard.Hold, error)
	Release(ctx context.Context, match func(guard.Hold) bool) (int, error)
}

// State is what /state answers: the status, and the age of the data as of now.
type State struct {
	keeper.Status
	Ready      bool    `json:"ready"`
	AgeSeconds float64 `json:"ageSeconds"`
}

// StateHandler answers GET /state. It shows no object's name, so any address may serve it.
func StateHandler(k keeper.Data, now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		s := k.Status()
		write(w, State{Status: s, Ready: s.Ready(), AgeSeconds: s.Age(now()).Seconds()})
	})
	return mux
}

// Handler answers what the sub-commands ask: GET /state, GET /guard, and POST /guard/release with the parameters namespace,
// name and kind, or all. Who may connect may do all of it.
func Handler(k Keeper, now func() time.Time) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /state", StateHandler(k, now))
	mux.HandleFunc("GET /guard", func(w http.ResponseWriter, r *http.Request) {
		holds, err := k.Held(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if holds == nil {
			holds = []guard.Hold{}
		}
		write(w, holds)
	})
	mux.HandleFunc("POST /guard/release", func(w http.ResponseWriter, r *http.Request) {
		match, ok := matcher(r)
		if !ok {
			http.Error(w, "say what to release: all=true, or namespace, name and kind", http.StatusBadRequest)
			return
		}
		n, err := k.Release(r.Context(), match)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		write(w, map[string]int{"released": n})
	})
	return mux
}

// matcher is what a request asks to release.
func matcher(r *http.Request) (func(guard.Hold) bool, bool) {
	query := r.URL.Query()
	if query.Get("all") == "true" {
		return func(guard.Hold) bool { return true }, true
	}
	namespace, name, kind := query.Get("namespace"), query.Get("name"), query.Get("kind")
	if namespace == "" && name == "" {
		return nil, false
	}
	return func(h guard.Hold) bool {
		return (namespace == "" || h.Namespace == namespace || h.Kind == "namespaces" && h.Name == namespace) &&
			(name == "" || h.Name == name) && (kind == "" || strings.EqualFold(h.Kind, kind))
	}, true
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
