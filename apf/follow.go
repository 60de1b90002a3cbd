package apf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/fence"
)

// Follower makes API Priority and Fairness follow a level.
type Follower struct {
	Writer  *Writer
	Level   Level
	Servers Servers
	// Protected are the levels that keep their seats.
	Protected []string
	Pacing    plan.Pacing
	// Every is how often the level is asked, Timeout how long it may take.
	Every, Timeout time.Duration
	// Count is how many API servers share the level; 0: those that hold a lease in the cluster are counted.
	Count int
	// DryRun plans and writes nothing.
	DryRun bool
	// Planned, if set, is told of every plan that is put in force, or would be, and how many API servers it is for.
	Planned func(p plan.Plan, apiServers int)
	Log     *slog.Logger
}

// restoreWithin is how long the end may take.
const restoreWithin = 30 * time.Second

// Run follows until the context ends, and then restores. It first waits until no other process follows, and restores what one
// that was killed has left. It returns nil when all was restored; an error says that something may be left.
func (f *Follower) Run(ctx context.Context) error {
	if f.DryRun {
		return ended(ctx, f.follow(ctx))
	}
	for {
		held, release, err := f.Writer.Fence(FollowerLease).Acquire(ctx, nil)
		if err != nil {
			return ended(ctx, err)
		}
		err = f.lead(held)
		lost := errors.Is(context.Cause(held), fence.ErrLost)
		if !lost {
			err = errors.Join(ended(ctx, err), f.restore(ctx))
		}
		release()
		if !lost {
			return err
		}
		// Whoever has the lease now has restored, or will; this process begins anew when it is its turn.
		f.Log.Warn("Another process may follow now", "err", context.Cause(held))
	}
}

// ended drops the error of a context that was ended on purpose.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return nil
	}
	return err
}

func (f *Follower) restore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWithin)
	defer cancel()
	restored, err := f.Writer.Restore(ctx)
	if err != nil {
		return fmt.Errorf("restoring the priority levels: %w", err)
	}
	f.logRestored(restored)
	return nil
}

func (f *Follower) logRestored(r Restored) {
	if r.Ballast || len(r.Levels)+len(r.Left) > 0 {
		f.Log.Info("Restored the priority levels", "levels", r.Levels, "changedByOthers", r.Left, "ballast", r.Ballast)
	}
}

// lead begins from what is as it was: a process that was killed may have left anything.
func (f *Follower) lead(ctx context.Context) error {
	for {
		restored, err := f.Writer.Restore(ctx)
		if err == nil {
			f.logRestored(restored)
			return f.follow(ctx)
		}
		if !fence.Transient(err) {
			return err
		}
		f.Log.Warn("Restoring what was left did not work, trying again", "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(f.Every):
		}
	}
}

// learned is what the follower knows of the API servers.
type learned struct {
	seats plan.Seats
	count int
	at    time.Time
}

// relearn is how long it believes that. Reading an API server's metrics costs it some megabytes.
const relearn = time.Minute

func (f *Follower) follow(ctx context.Context) error {
	pacer := plan.NewPacer(f.Pacing, time.Now())
	var known learned
	tick := time.NewTicker(f.Every)
	defer tick.Stop()
	silent, told := false, ""
	for {
		err := f.step(ctx, pacer, &known, &silent)
		var foreign *ForeignError
		switch {
		case err == nil:
			told = ""
		case errors.As(err, &foreign), ctx.Err() != nil, !fence.Transient(err):
			return err
		case err.Error() != told: // not every few seconds
			told = err.Error()
			f.Log.Warn("Following did not work, trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// step asks the level and writes what has to be written.
func (f *Follower) step(ctx context.Context, pacer *plan.Pacer, known *learned, silent *bool) error {
	within, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	state, err := f.Writer.Read(within)
	if err != nil {
		return err
	}
	if err := state.foreign(); err != nil {
		return err
	}
	if err := f.learn(within, state, known); err != nil {
		return err
	}
	request := plan.Request{Levels: state.Before, Seats: known.seats, Protected: f.Protected, Wanted: math.MaxInt32}
	open, err := plan.Make(request)
	if err != nil {
		return err
	}
	if b, ok := f.Level.(bounded); ok {
		b.Bound(f.Pacing.Min, open.Full, known.count)
	}
	wanted, err := f.Level.Level(within)
	if (err != nil) != *silent {
		*silent = err != nil
		if *silent {
			f.Log.Warn("The level is not known: holding, then giving the seats back", "hold", f.Pacing.Hold, "err", err)
		} else {
			f.Log.Info("The level is known", "seats", wanted)
		}
	}
	decision := pacer.Next(time.Now(), wanted/float64(known.count), err == nil, open.Full)
	if !decision.Write {
		return f.mend(within, state, pacer)
	}
	request.Wanted = decision.Seats
	next, err := plan.Make(request)
	if err != nil {
		return err
	}
	if f.Planned != nil {
		f.Planned(next, known.count)
	}
	if !f.DryRun {
		if err := f.Writer.Apply(within, next); err != nil {
			return err
		}
		f.Log.Info("Moved the seats of everyone else", "seats", next.Else, "full", next.Full, "ballastShares", next.Ballast, "relaxing", decision.Relaxing)
	}
	pacer.Wrote(time.Now(), decision, open.Full)
	return nil
}

// mend begins anew when the ballast is gone though one is in force: somebody restored, or deleted it.
func (f *Follower) mend(ctx context.Context, s *State, pacer *plan.Pacer) error {
	if f.DryRun {
		return nil
	}
	if s.Ballast == 0 && pacer.InForce() {
		f.Log.Warn("The ballast is gone, beginning anew")
		pacer.Reset(time.Now())
	}
	return f.Writer.Sweep(ctx)
}

// learn finds out about the API servers, when what is known is old.
func (f *Follower) learn(ctx context.Context, s *State, known *learned) error {
	if known.count > 0 && time.Since(known.at) < relearn {
		return nil
	}
	seats, err := f.Servers.Seats(ctx, s.Now)
	if errors.Is(err, plan.ErrUnsettled) && known.count > 0 {
		return nil // what was found before is not refuted by a reading between two changes
	}
	if err != nil {
		return err
	}
	count := f.Count
	if count == 0 {
		if count, err = CountServers(ctx, f.Writer.o.Client, time.Now()); err != nil {
			return err
		}
	}
	*known = learned{seats: seats, count: count, at: time.Now()}
	return nil
}

// maxLeaseAge is how old an API server's lease may be: it renews it every 10 s, and a dead one's stays for an hour.
const maxLeaseAge = 2 * time.Minute

// CountServers counts the API servers by the leases they hold; at least 1.
func CountServers(ctx context.Context, client kubernetes.Interface, now time.Time) (int, error) {
	leases, err := client.CoordinationV1().Leases(LeaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"})
	if err != nil {
		return 0, fmt.Errorf("counting the API servers by their leases: %w", err)
	}
	alive := 0
	for _, l := range leases.Items {
		if l.Spec.RenewTime != nil && now.Sub(l.Spec.RenewTime.Time) < maxLeaseAge {
			alive++
		}
	}
	return max(alive, 1), nil
}
