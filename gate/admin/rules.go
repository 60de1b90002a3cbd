package admin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/gate/peers/agree"
	"github.com/seakeep/seakeep/internal/statefile"
)

// maxRules bounds the emergency rules in force: each request is compared with all of them.
const maxRules = 64

// saved is the state file's content.
type saved struct {
	Rules []v1alpha1.EmergencyRule `json:"rules"`
	// Lifts are those that another gate may not have heard of; a gate alone keeps none.
	Lifts []agree.Lift `json:"lifts,omitempty"`
}

// event is a line of the audit chain.
type event struct {
	Event string `json:"event"` // set, learn (set on another gate), prolong, lift, expire, refuse, restore, squeeze, gap
	// At is when it happened, if it came into the chain later.
	At *time.Time `json:"at,omitempty"`
	// By is who did it: a uid and pid of this host, or a certificate's common name. Empty for what the gate did.
	By     string                  `json:"by,omitempty"`
	Rule   *v1alpha1.EmergencyRule `json:"rule,omitempty"`
	Reason string                  `json:"reason,omitempty"`
	Ended  int                     `json:"endedRequests,omitempty"`
	// Lost counts the events of a gap.
	Lost int `json:"lost,omitempty"`
}

// actor is who speaks: name is for the audit; user and groups are known when a certificate says them.
type actor struct {
	name   string
	user   string
	groups []string
}

// Errors a client can tell apart by the HTTP code.
var (
	errNotFound = errors.New("no such rule in force; it may have expired")
	errTooMany  = fmt.Errorf("%d emergency rules are in force already: lift some", maxRules)
)

// lockoutError says that a rule would lock out those who repair.
type lockoutError struct{ why string }

func (e *lockoutError) Error() string { return e.why }

// rules are the emergency rules of this gate.
type rules struct {
	engine  Engine
	clock   func() time.Time
	log     *slog.Logger
	metrics *metrics
	state   saver
	changed chan struct{}         // wakes expire
	gate    string                // this gate's name among several; "" for one alone
	decided func(agree.Decisions) // nil: there is nobody to tell

	mu       sync.Mutex // held over the whole of a change, disk included: changes are rare and must not overtake
	inForce  []v1alpha1.EmergencyRule
	lifts    []agree.Lift // not to be forgotten yet
	unsaved  error        // why what is in force is not what is on disk
	restored []string     // warnings about the restart
	trail    trail
}

// restore puts what was saved back in force, but for what has expired meanwhile.
func (r *rules) restore() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var state saved
	meta, err := r.state.Load(&state)
	switch {
	case errors.Is(err, statefile.ErrNone):
		return
	case err != nil:
		r.warnRestored("emergency rules of before the restart are lost", err)
		return
	}
	for _, refused := range meta.Refused {
		r.warnRestored("emergency rules restored from older state", refused)
	}
	now := r.clock()
	r.lifts = agree.Forget(state.Lifts, now)
	var expired []v1alpha1.EmergencyRule
	for _, rule := range state.Rules {
		if !now.Before(rule.Expires.Time) {
			expired = append(expired, rule)
			continue
		}
		// A clock that was set back while the gate was down must not prolong a rule beyond what was asked for.
		if latest := now.Add(rule.Duration.Duration); rule.Expires.After(latest) {
			rule.Expires = metav1.NewTime(latest)
		}
		if _, err := r.engine.SetEmergency(append(slices.Clone(r.inForce), rule)); err != nil {
			r.warnRestored("emergency rule "+rule.ID+" could not be put back in force", err)
			continue
		}
		r.inForce = append(r.inForce, rule)
		r.trail.record(event{Event: "restore", Rule: &rule})
		r.log.Info("Emergency rule is back in force", "rule", rule.ID, "action", rule.Action, "expires", rule.Expires.Time)
	}
	for _, rule := range expired {
		r.trail.record(event{Event: "expire", Rule: &rule, Reason: "while the gate was not running"})
	}
	if len(expired) > 0 {
		r.save()
	}
	r.metrics.inForce.Set(float64(len(r.inForce)))
}

func (r *rules) warnRestored(what string, err error) {
	r.restored = append(r.restored, what+": "+err.Error())
	r.log.Error("Restoring emergency rules", "problem", what, "reason", err)
}

// set checks a rule and puts it in force. It returns when the rule is on disk and audited, or says in the result that
// it is not: in an emergency a full disk must not keep a rule from working.
func (r *rules) set(rule v1alpha1.EmergencyRule, by actor, dryRun bool) (*v1alpha1.EmergencyRuleResult, error) {
	rule.SetDefaults()
	rule.ID, rule.By, rule.Created, rule.Expires = "", "", metav1.Time{}, metav1.Time{} // not the client's to say
	if err := check(&rule, by); err != nil {
		if !dryRun {
			r.mu.Lock()
			r.trail.record(event{Event: "refuse", By: by.name, Rule: &rule, Reason: err.Error()})
			r.mu.Unlock()
		}
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.inForce) >= maxRules {
		return nil, errTooMany
	}
	now := r.clock()
	rule.ID = newID(rule.Action)
	rule.By, rule.Created, rule.Expires = r.on(by.name), metav1.NewTime(now), metav1.NewTime(now.Add(rule.Duration.Duration))
	if dryRun {
		return &v1alpha1.EmergencyRuleResult{Rule: rule, DryRun: true}, nil
	}
	next := append(slices.Clone(r.inForce), rule)
	ended, err := r.engine.SetEmergency(next)
	if err != nil {
		return nil, err
	}
	r.inForce = next
	r.log.Warn("Emergency rule in force", "rule", rule.ID, "action", rule.Action, "by", rule.By, "reason", rule.Reason,
		"expires", rule.Expires.Time, "endedRequests", ended)
	result := &v1alpha1.EmergencyRuleResult{Rule: rule, EndedRequests: ended}
	result.Durable, result.Warnings = r.settle(event{Event: "set", By: by.name, Rule: &rule, Ended: ended})
	return result, nil
}

// prolong moves a rule's end to duration from now. Its buckets and its open requests stay as they are.
func (r *rules) prolong(id string, duration time.Duration, reason string, by actor) (until time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.inForce, func(rule v1alpha1.EmergencyRule) bool { return rule.ID == id })
	if i < 0 {
		return time.Time{}, errNotFound
	}
	next := slices.Clone(r.inForce)
	rule := &next[i]
	rule.Duration, rule.Expires = metav1.Duration{Duration: duration}, metav1.NewTime(r.clock().Add(duration))
	if _, err := r.engine.SetEmergency(next); err != nil {
		return time.Time{}, err
	}
	r.inForce = next
	r.log.Warn("Emergency rule prolonged", "rule", id, "by", by.name, "reason", reason, "expires", rule.Expires.Time)
	r.settle(event{Event: "prolong", By: by.name, Rule: rule, Reason: reason})
	return rule.Expires.Time, nil
}

// lift takes a rule out of force.
func (r *rules) lift(id, reason string, by actor) (*v1alpha1.EmergencyRuleResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.inForce, func(rule v1alpha1.EmergencyRule) bool { return rule.ID == id })
	if i < 0 {
		return nil, errNotFound
	}
	rule := r.inForce[i]
	next := slices.Delete(slices.Clone(r.inForce), i, i+1)
	if _, err := r.engine.SetEmergency(next); err != nil {
		return nil, err
	}
	r.inForce = next
	if r.gate != "" {
		r.lifts = append(agree.Forget(r.lifts, r.clock()),
			agree.Lift{ID: id, Expires: rule.Expires, By: r.on(by.name), Reason: reason, At: metav1.NewTime(r.clock())})
	}
	r.log.Warn("Emergency rule lifted", "rule", id, "by", by.name, "reason", reason)
	result := &v1alpha1.EmergencyRuleResult{Rule: rule}
	result.Durable, result.Warnings = r.settle(event{Event: "lift", By: by.name, Rule: &rule, Reason: reason})
	return result, nil
}

// settle tells the other gates of a change and makes it durable and audited.
func (r *rules) settle(e event) (durable bool, warnings []string) {
	r.tell() // before the disk, which may be slow
	r.save()
	r.trail.record(e)
	r.metrics.changes.WithLabelValues(e.Event).Inc()
	r.metrics.inForce.Set(float64(len(r.inForce)))
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return r.unsaved == nil, r.warnings()
}

func (r *rules) save() {
	r.unsaved = r.state.Save(saved{Rules: r.inForce, Lifts: r.lifts})
	if r.unsaved != nil {
		r.log.Error("Saving emergency rules", "reason", r.unsaved)
	}
}

// warnings are what an operator should know; r.mu is held.
func (r *rules) warnings() []string {
	warnings := slices.Clone(r.restored)
	if r.unsaved != nil {
		warnings = append(warnings, "what is in force is not saved and would not survive a restart: "+r.unsaved.Error())
	}
	if err := r.trail.warning(); err != nil {
		warnings = append(warnings, err.Error())
	}
	return warnings
}

// list returns what is in force and what does not work as it should.
func (r *rules) list() ([]v1alpha1.EmergencyRule, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	list := []v1alpha1.EmergencyRule{} // an empty list, not null, in JSON
	for _, rule := range r.inForce {
		if now.Before(rule.Expires.Time) {
			list = append(list, rule)
		}
	}
	return list, r.warnings()
}

// expire removes rules when they end, until the context does. The engine lets go of them by itself, by the clock; this
// is for the state file and the audit.
func (r *rules) expire(ctx context.Context) {
	for {
		wait := r.expireNow()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.changed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// lookAgain bounds the sleep of expire: a wall clock that is set while the process runs is noticed within it. What
// could not be saved is tried again as often.
const lookAgain = 10 * time.Second

// expireNow removes what has expired and returns when to look again.
func (r *rules) expireNow() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trail.broken != nil {
		r.trail.retry()
	}
	now := r.clock()
	wait := lookAgain
	var left, expired []v1alpha1.EmergencyRule
	for _, rule := range r.inForce {
		if remaining := rule.Expires.Sub(now); remaining > 0 {
			left, wait = append(left, rule), min(wait, remaining)
		} else {
			expired = append(expired, rule)
		}
	}
	if len(expired) == 0 {
		if r.unsaved != nil {
			r.save()
		}
		return wait
	}
	if _, err := r.engine.SetEmergency(left); err != nil {
		r.log.Error("Removing expired emergency rules", "reason", err) // they no longer act: the engine goes by the clock
	}
	r.inForce, r.lifts = left, agree.Forget(r.lifts, now)
	r.tell()
	r.save()
	for _, rule := range expired {
		r.log.Info("Emergency rule expired", "rule", rule.ID, "action", rule.Action)
		r.trail.record(event{Event: "expire", Rule: &rule})
		r.metrics.changes.WithLabelValues("expire").Inc()
	}
	r.metrics.inForce.Set(float64(len(r.inForce)))
	return wait
}

// squeezed audits the beginning of a squeeze; its renewals, every few seconds, would drown the chain.
func (r *rules) squeezed(reason string, ended int, by actor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trail.record(event{Event: "squeeze", By: by.name, Reason: reason, Ended: ended})
}

func (r *rules) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trail.close()
}

// check refuses what is wrong and what would lock out those who repair.
func check(rule *v1alpha1.EmergencyRule, by actor) error {
	if errs := rule.Validate(); len(errs) > 0 {
		return errs.ToAggregate()
	}
	if by.user != "" && limit.LocksOut(rule, by.user, by.groups) {
		why := fmt.Sprintf("it would lock out %q, who sets it", by.user)
		if rule.Action == v1alpha1.EmergencyLockdown {
			why += ": name yourself in exceptUsers, or one of your groups in exceptGroups"
		} else {
			why += ": narrow the match"
		}
		return &lockoutError{why: why}
	}
	return nil
}

// newID is short enough to be typed from a screen, and never used twice: the audit and the engine go by it.
func newID(action v1alpha1.EmergencyAction) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return strings.ToLower(string(action)) + "-" + hex.EncodeToString(b[:])
}
