// Package admin is where operators speak to a gate: over a unix socket of the gate's own user, and over mTLS where it
// is configured. It keeps the emergency rules: in force first, then on disk, then in the audit chain, and only then
// acknowledged, and back in force after a restart. It needs no API server, because it is for the hour when there is
// none (OpenAI, 2024-12-11: the engineers knew the cause in minutes and could not act on it).
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/peers/agree"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/statefile"
)

// Engine is what the rules act on; gate/limit has one. Its methods are safe for concurrent use and do no I/O.
type Engine interface {
	// SetEmergency replaces the emergency rules. When it returns, they are in force and the open requests they end are
	// cancelled; it says how many. An error leaves the rules in force that were.
	SetEmergency(rules []v1alpha1.EmergencyRule) (ended int, err error)
	// Squeeze makes room for the break-glass lane until then.
	Squeeze(until time.Time) (ended int)
	// SqueezedUntil is zero when there is no squeeze.
	SqueezedUntil() time.Time
	// RejectedNow says whom the gate turned away in the last minute.
	RejectedNow() []v1alpha1.RejectedClient
}

// auditor is the part of *auditlog.Log used here; tests put full disks behind it.
type auditor interface {
	Append(event any) error
	Close() error
}

// saver is the part of *statefile.File used here.
type saver interface {
	Save(v any) error
	Load(v any) (statefile.Meta, error)
}

// Names of the files in the state directory.
const (
	stateName = "emergency-rules"
	auditName = "admin-audit.jsonl"
	// schemaVersion of the state: 1 is {"rules":[…],"lifts":[…]}; who does not know of lifts may leave them out.
	schemaVersion = 1
)

// Options are what a Server needs.
type Options struct {
	// Config says where to listen.
	Config v1alpha1.GateAdmin
	// StateDir keeps the rules and the audit chain.
	StateDir string
	// Engine is required.
	Engine Engine
	// Top answers GET /v1/top with any value that encodes to JSON: the n most expensive clients, in the order asked
	// for ("" is its default). Its errors are the client's fault. Nil: there is no such endpoint.
	Top func(n int, order string) (any, error)
	// Totals answers GET /v1/totals with any value that encodes to JSON: what was forwarded so far, by verb and
	// resource. Nil: there is no such endpoint.
	Totals func() any
	// Relay answers GET /v1/relay with any value that encodes to JSON: which reads are shared, and what that saved. Nil:
	// there is no such endpoint.
	Relay func() any
	// Overload answers GET /v1/overload with any value that encodes to JSON: what the API servers can take, and who waits. Nil:
	// there is no such endpoint.
	Overload func() any
	// Clamp, Shadow and Budgets answer GET /v1/clamp, /v1/shadow and /v1/budgets with any value that encodes to JSON: whose
	// cost grows with its nodes, whom rules in shadow would have turned away, and what accounts may use. Nil: there is no
	// such endpoint.
	Clamp, Shadow, Budgets func() any
	// Gate is this gate's name among several; "" for one alone. It stands beside who decided something.
	Gate string
	// Decided is told the rules in force and the lifts to be remembered, first by New and then whenever they change, for
	// the other gates to hear; it must not wait. May be nil.
	Decided func(agree.Decisions)
	// Peers answers GET /v1/peers with any value that encodes to JSON: the other gates. Nil: there is no such endpoint.
	Peers func() any
	// Warnings are added to those of every status; may be nil.
	Warnings func() []string
	// Version is shown in the status.
	Version string
	// Clock defaults to time.Now; it is the wall clock that rules expire by.
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Server is a gate's admin endpoint.
type Server struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	rules   *rules
	local   *socket
	remote  net.Listener // nil unless configured
	servers []*http.Server
}

// New puts the saved rules back in force and opens the listeners. A state or audit file that cannot be used does not
// keep the gate from starting: it is a warning, in the log and in every status. A socket on which a live gate answers,
// and a certificate that cannot be read, is an error.
func New(opts Options) (*Server, error) {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, log: opts.Log, metrics: newMetrics(opts.Registerer)}
	local, err := listenSocket(opts.Config.Socket)
	if err != nil {
		return nil, fmt.Errorf("opening the admin socket %s: %w", opts.Config.Socket, err)
	}
	s.local = local
	if remote := opts.Config.Remote; remote != nil {
		if s.remote, err = listenRemote(remote, opts.Log); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the remote admin endpoint %s: %w", remote.Address, err), local.Close())
		}
	}
	// Only now, with the socket's lock held, can nobody else be writing these files.
	s.rules = &rules{
		engine: opts.Engine, clock: opts.Clock, log: opts.Log, metrics: s.metrics, gate: opts.Gate, decided: opts.Decided,
		state:   statefile.New(opts.StateDir, stateName, schemaVersion),
		changed: make(chan struct{}, 1),
		trail:   trail{clock: opts.Clock, log: opts.Log, open: openAudit(&opts)},
	}
	if s.rules.trail.retry(); s.rules.trail.broken != nil {
		opts.Log.Error("Opening the audit log", "reason", s.rules.trail.broken)
	}
	s.rules.restore()
	s.rules.tell()
	s.servers = append(s.servers, s.server(localActor))
	if s.remote != nil {
		s.servers = append(s.servers, s.server(remoteActor(opts.Config.Remote.AllowedNames)))
	}
	return s, nil
}

// openAudit opens the chain, in a folder that may have been missing.
func openAudit(o *Options) func() (auditor, error) {
	return func() (auditor, error) {
		if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
			return nil, fmt.Errorf("making the state directory: %w", err)
		}
		// Not returned as it is: a nil *auditlog.Log would be an auditor that is not nil.
		log, err := auditlog.Open(filepath.Join(o.StateDir, auditName), auditlog.Options{Clock: o.Clock, Log: o.Log})
		if err != nil {
			return nil, err
		}
		return log, nil
	}
}

// Address is where the remote endpoint listens, nil when there is none.
func (s *Server) Address() net.Addr {
	if s.remote == nil {
		return nil
	}
	return s.remote.Addr()
}

// Learn puts in force what another gate decided, and says how much of it was refused.
func (s *Server) Learn(gate string, from agree.Decisions) (refused int) {
	return s.rules.learn(gate, from)
}

// Run serves until the context ends, and lets what was begun finish. It closes the listeners.
func (s *Server) Run(ctx context.Context) error {
	var owned sync.WaitGroup
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	owned.Go(func() { s.rules.expire(ctx) })
	listeners := []net.Listener{s.local}
	if s.remote != nil {
		listeners = append(listeners, s.remote)
	}
	for i, l := range listeners {
		owned.Go(func() {
			if err := s.servers[i].Serve(l); !errors.Is(err, http.ErrServerClosed) {
				stop(fmt.Errorf("serving the admin endpoint %s: %w", l.Addr(), err))
			}
		})
	}
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	for _, server := range s.servers {
		if err := server.Shutdown(grace); err != nil {
			errs = append(errs, server.Close())
		}
	}
	owned.Wait()
	errs = append(errs, s.rules.close())
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		errs = append(errs, cause)
	}
	return errors.Join(errs...)
}

// status is the answer to GET /v1/status.
func (s *Server) status() v1alpha1.EmergencyStatus {
	rules, warnings := s.rules.list()
	if s.opts.Warnings != nil {
		warnings = append(warnings, s.opts.Warnings()...)
	}
	status := v1alpha1.EmergencyStatus{
		Rejected: s.opts.Engine.RejectedNow(),
		Rules:    rules,
		Warnings: warnings,
		Time:     metav1.NewTime(s.opts.Clock()),
		Version:  s.opts.Version,
	}
	if until := s.opts.Engine.SqueezedUntil(); !until.IsZero() {
		t := metav1.NewTime(until)
		status.SqueezedUntil = &t
	}
	return status
}
