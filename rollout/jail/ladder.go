package jail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Ladder is the measures for one change on one cluster. It is used from one goroutine.
type Ladder struct {
	Spec v1alpha1.RolloutLadder
	// Rungs are in the order of Spec.Rungs; those without one are handed to people.
	Rungs []Rung
	// Record is told of each rung before it is tried and after, so that what a process that dies has done is known to the next;
	// nil records nothing. An error before a rung keeps it from being tried, unless it only takes load away.
	Record func(t Taken, done bool) error
	Log    *slog.Logger
}

// Proof is what proving one rung found.
type Proof struct {
	Rung     v1alpha1.RungName `json:"rung"`
	Optional bool              `json:"optional,omitempty"`
	Err      error             `json:"-"`
	Why      string            `json:"why,omitempty"`
}

// ErrUnproved is wrapped by the error of a rung that must be there and cannot be proved.
var ErrUnproved = errors.New("a measure that may be needed would not work")

// Prove proves every rung, each within a time, and changes nothing that stays. The error names each that must work and would
// not; optional ones are only in the proofs.
func (l *Ladder) Prove(ctx context.Context, c Component, each time.Duration) ([]Proof, error) {
	var proofs []Proof
	var errs []error
	for _, spec := range l.Spec.Rungs {
		p := Proof{Rung: spec.Name, Optional: spec.Optional}
		if r := l.rung(spec.Name); r == nil {
			p.Err = errors.New("there is none: name a gate, or make it optional")
		} else {
			within, cancel := context.WithTimeout(ctx, each)
			p.Err = r.Prove(within, c)
			cancel()
		}
		if p.Err != nil {
			p.Why = p.Err.Error()
			if !spec.Optional {
				errs = append(errs, fmt.Errorf("%w: cluster %s, rung %s: %w", ErrUnproved, c.Cluster, spec.Name, p.Err))
			}
		}
		proofs = append(proofs, p)
	}
	return proofs, errors.Join(errs...)
}

func (l *Ladder) rung(name v1alpha1.RungName) Rung {
	i := slices.IndexFunc(l.Rungs, func(r Rung) bool { return r.Name() == string(name) })
	if i < 0 {
		return nil
	}
	return l.Rungs[i]
}

func (l *Ladder) infos() []Info {
	var infos []Info
	for _, spec := range l.Spec.Rungs {
		if r := l.rung(spec.Name); r != nil {
			infos = append(infos, Info{Name: spec.Name, HitsStable: r.HitsStable(), ReducesLoad: r.ReducesLoad()})
		}
	}
	return infos
}

// Step decides and takes at most one rung. The situation's Taken must be what Record was told. It returns what was decided, and
// the rung that was taken; nil when none was.
func (l *Ladder) Step(ctx context.Context, c Component, s Situation, why string) (Decision, *Taken) {
	d := Next(l.Spec, l.infos(), s)
	if d.Do == "" {
		return d, nil
	}
	r := l.rung(d.Do)
	t := Taken{Name: d.Do, At: s.Now}
	l.Log.Info("Taking a measure", "cluster", c.Cluster, "component", c.Namespace+"/"+c.Name, "rung", d.Do, "reason", why)
	if l.Record != nil {
		// A full disk must not keep load on an API server that is going down; but what writes more is only done on record.
		if err := l.Record(t, false); err != nil && !r.ReducesLoad() {
			t.Err = fmt.Sprintf("recording it before doing it: %v", err)
			return d, &t
		}
	}
	if err := r.Do(ctx, c, why, l.Spec.Duration.Duration); err != nil {
		t.Err = err.Error()
		l.Log.Warn("A measure did not work", "cluster", c.Cluster, "rung", d.Do, "err", err)
	}
	if l.Record != nil {
		if err := l.Record(t, true); err != nil {
			l.Log.Warn("A measure could not be recorded", "cluster", c.Cluster, "rung", d.Do, "err", err)
		}
	}
	return d, &t
}
