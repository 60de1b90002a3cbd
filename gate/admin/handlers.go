package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// maxBody bounds what a client may send; a rule takes a few kilobytes.
const maxBody = 64 << 10

// maxSqueeze bounds one squeeze: a lane that dies must not leave the standard lane squeezed.
const maxSqueeze = 30 * time.Second

// answer is the body of every error.
type answer struct {
	Error string `json:"error"`
	// Violations has one entry a wrong field.
	Violations []string `json:"violations,omitempty"`
}

type actorKey struct{}

// server serves the endpoint to the callers that who recognises; who runs for every request.
func (s *Server) server(who func(*http.Request) (actor, error)) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.status()) })
	mux.HandleFunc("GET /v1/rules", s.listRules)
	mux.HandleFunc("POST /v1/rules", s.setRule)
	mux.HandleFunc("DELETE /v1/rules/{id}", s.liftRule)
	mux.HandleFunc("POST /v1/squeeze", s.squeeze)
	if s.opts.Top != nil {
		mux.HandleFunc("GET /v1/top", s.top)
	}
	if s.opts.Totals != nil {
		mux.HandleFunc("GET /v1/totals", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.opts.Totals()) })
	}
	if s.opts.Relay != nil {
		mux.HandleFunc("GET /v1/relay", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.opts.Relay()) })
	}
	for path, answer := range map[string]func() any{
		"GET /v1/overload": s.opts.Overload, "GET /v1/clamp": s.opts.Clamp, "GET /v1/shadow": s.opts.Shadow, "GET /v1/budgets": s.opts.Budgets,
		"GET /v1/peers": s.opts.Peers,
	} {
		if answer != nil {
			mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, answer()) })
		}
	}
	// Where the gate itself spends its time is an operator's question too, and it cannot be asked after a restart.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, http.StatusNotFound, answer{Error: "no such endpoint: " + r.Method + " " + r.URL.Path})
	})
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			by, err := who(r)
			if err != nil {
				s.log.Warn("Turning away an admin caller", "reason", err)
				reply(w, http.StatusForbidden, answer{Error: err.Error()})
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), actorKey{}, by)))
		}),
		ConnContext:       withPeer,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func actorOf(r *http.Request) actor {
	by, ok := r.Context().Value(actorKey{}).(actor)
	if !ok {
		panic("BUG: a request without an actor")
	}
	return by
}

func (s *Server) listRules(w http.ResponseWriter, _ *http.Request) {
	list, _ := s.rules.list()
	reply(w, http.StatusOK, saved{Rules: list})
}

func (s *Server) setRule(w http.ResponseWriter, r *http.Request) {
	var rule v1alpha1.EmergencyRule
	if err := decode(r.Body, &rule); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: err.Error()})
		return
	}
	dryRun, err := boolean(r, "dryRun")
	if err != nil {
		reply(w, http.StatusBadRequest, answer{Error: err.Error()})
		return
	}
	result, err := s.rules.set(rule, actorOf(r), dryRun)
	if err != nil {
		s.refuse(w, err)
		return
	}
	reply(w, http.StatusOK, result)
}

func (s *Server) liftRule(w http.ResponseWriter, r *http.Request) {
	reason := r.URL.Query().Get("reason")
	if reason == "" || !isLine(reason) {
		reply(w, http.StatusBadRequest, answer{Error: "the query parameter reason must be one line of at most 500 bytes: it goes to the audit log"})
		return
	}
	result, err := s.rules.lift(r.PathValue("id"), reason, actorOf(r))
	if err != nil {
		s.refuse(w, err)
		return
	}
	reply(w, http.StatusOK, result)
}

func (s *Server) top(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n := 20
	if v := q.Get("n"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 0 {
			reply(w, http.StatusBadRequest, answer{Error: fmt.Sprintf("n must be a number ≥ 0, got %q", v)})
			return
		}
	}
	order := q.Get("sort")
	if order == "" {
		order = q.Get("by")
	}
	list, err := s.opts.Top(n, order)
	if err != nil {
		reply(w, http.StatusBadRequest, answer{Error: err.Error()})
		return
	}
	reply(w, http.StatusOK, list)
}

// squeezeRequest is what the break-glass lane sends.
type squeezeRequest struct {
	For    metav1.Duration `json:"for"`
	Reason string          `json:"reason"`
}

// squeezeResult answers it.
type squeezeResult struct {
	Until         metav1.Time `json:"until"`
	EndedRequests int         `json:"endedRequests"`
}

func (s *Server) squeeze(w http.ResponseWriter, r *http.Request) {
	var request squeezeRequest
	if err := decode(r.Body, &request); err != nil {
		reply(w, http.StatusBadRequest, answer{Error: err.Error()})
		return
	}
	if d := request.For.Duration; d <= 0 || d > maxSqueeze {
		reply(w, http.StatusUnprocessableEntity, answer{Error: fmt.Sprintf("for must be > 0s and ≤ %v, got %v: ask again before it ends", maxSqueeze, d)})
		return
	}
	if !isLine(request.Reason) {
		reply(w, http.StatusUnprocessableEntity, answer{Error: "reason must be one line of at most 500 bytes"})
		return
	}
	begins := s.opts.Engine.SqueezedUntil().IsZero()
	until := s.opts.Clock().Add(request.For.Duration)
	ended := s.opts.Engine.Squeeze(until)
	s.metrics.squeezes.Inc()
	if begins {
		s.rules.squeezed(request.Reason, ended, actorOf(r))
	}
	reply(w, http.StatusOK, squeezeResult{Until: metav1.NewTime(until), EndedRequests: ended})
}

// isLine is true for what may go into the audit and the log as it is.
func isLine(s string) bool {
	if len(s) > 500 {
		return false
	}
	for _, c := range s {
		if unicode.IsControl(c) {
			return false
		}
	}
	return true
}

// refuse turns an error into the code that tells the client what kind it is.
func (s *Server) refuse(w http.ResponseWriter, err error) {
	body := answer{Error: err.Error()}
	code := http.StatusInternalServerError
	var violations utilerrors.Aggregate
	var lockout *lockoutError
	switch {
	case errors.Is(err, errNotFound):
		code = http.StatusNotFound
	case errors.Is(err, errTooMany):
		code = http.StatusConflict
	case errors.As(err, &lockout):
		code = http.StatusUnprocessableEntity
	case errors.As(err, &violations):
		code, body.Error = http.StatusUnprocessableEntity, "the rule is refused"
		for _, v := range violations.Errors() {
			var one *field.Error
			if errors.As(v, &one) {
				body.Violations = append(body.Violations, one.Error())
			}
		}
	}
	s.metrics.changes.WithLabelValues("refuse").Inc()
	reply(w, code, body)
}

func boolean(r *http.Request, name string) (bool, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s must be true or false, got %q", name, v)
	}
	return b, nil
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body) // the client is gone; there is nobody to tell
}

// decode reads exactly one JSON value without unknown fields: a misspelt field in an emergency is a rule that does
// something else.
func decode(r io.Reader, v any) error {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("decoding the request: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decoding the request: there is more after the JSON value")
	}
	return nil
}

// withPeer notes who is at the other end of a unix socket, once per connection.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	peer, err := peerOf(conn)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer)
}
