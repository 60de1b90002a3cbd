// Package fence lets one process at a time write to a cluster, by a Lease there. What is held ends before another process can
// have it, so that a process that was frozen or cut off writes nothing after its time.
package fence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Fence is a Lease that one process at a time holds. It is taken over when its holder has not renewed it for its whole length,
// by the clock of who waits: clocks of different machines are never compared. A Fence that has lost its lease to nobody has it back
// at once. It is for one goroutine at a time; two Fences of one holder fence each other out.
type Fence struct {
	Client kubernetes.Interface
	// Namespace and Name are the Lease's.
	Namespace, Name string
	// FieldManager owns its fields.
	FieldManager string
	// Holder names this process, for people too.
	Holder string
	// Length is how long the lease outlives a holder that died.
	Length time.Duration
	Log    *slog.Logger

	// had is true once it was held: a lease that still names this holder then is our own, which could not be renewed.
	had bool
}

// ErrLost is the cause that a held fence's context ends with when the lease could not be renewed in time.
var ErrLost = errors.New("the lease was lost")

// Acquire waits until the lease is held. The context it returns ends when the lease is lost, always before another process can
// have it; nothing may be written after. release gives the lease back and must be called. waiting, if not nil, is told who holds
// it meanwhile, each time that is somebody new.
func (f *Fence) Acquire(ctx context.Context, waiting func(holder string)) (held context.Context, release func(), err error) {
	var seen string // the holder's last sign of life, as it was when first seen
	var seenAt time.Time
	var told string
	for {
		started := time.Now()
		lease, mine, err := f.try(ctx, seen != "" && time.Since(seenAt) >= f.Length, seen)
		switch {
		case err != nil && !Transient(err):
			return nil, nil, fmt.Errorf("taking the lease %s/%s: %w", f.Namespace, f.Name, err)
		case mine:
			return f.hold(ctx, lease, started)
		case lease != nil:
			if sign := signOf(lease); sign != seen {
				seen, seenAt = sign, time.Now()
			}
			if holder := holderOf(lease); holder != told {
				told = holder
				if waiting != nil && holder != "" {
					waiting(holder)
				}
				f.Log.Info("Waiting for the lease", "lease", f.Namespace+"/"+f.Name, "holder", holder)
			}
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(f.Length / 15):
		}
	}
}

// Transient is an error after which trying again makes sense: the API server may be the one in trouble.
func Transient(err error) bool {
	return !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err)
}

// signOf is what changes whenever the holder shows that it lives.
func signOf(l *coordinationv1.Lease) string { return string(l.UID) + "/" + l.ResourceVersion }

func holderOf(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// try takes the lease if it is free, or if its holder's time is over and it still shows the sign of then.
func (f *Fence) try(ctx context.Context, over bool, seen string) (_ *coordinationv1.Lease, mine bool, err error) {
	leases := f.Client.CoordinationV1().Leases(f.Namespace)
	lease, err := leases.Get(ctx, f.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: f.Name, Namespace: f.Namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "seakeep"}}}
		f.sign(lease)
		lease, err = leases.Create(ctx, lease, metav1.CreateOptions{FieldManager: f.FieldManager})
		if apierrors.IsAlreadyExists(err) {
			return nil, false, nil
		}
		return lease, err == nil, err
	}
	if err != nil {
		return nil, false, err
	}
	if holder := holderOf(lease); holder != "" && !(f.had && holder == f.Holder) && !(over && signOf(lease) == seen) {
		return lease, false, nil
	}
	f.sign(lease)
	taken, err := leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: f.FieldManager})
	if apierrors.IsConflict(err) {
		return nil, false, nil
	}
	return taken, err == nil, err
}

func (f *Fence) sign(l *coordinationv1.Lease) {
	now := metav1.NowMicro()
	seconds := int32(f.Length.Seconds())
	if holderOf(l) != f.Holder {
		l.Spec.AcquireTime = &now
	}
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = &f.Holder, &now, &seconds
}

// hold renews the lease until it is released. started is when the request that took it was sent: others count from later.
func (f *Fence) hold(ctx context.Context, lease *coordinationv1.Lease, started time.Time) (context.Context, func(), error) {
	f.had = true
	held, lose := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	stop, finish := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop.Done():
				return
			case <-time.After(f.Length / 5):
			}
			sent := time.Now()
			if renewed, err := f.renew(stop, lease, started.Add(f.Length*2/3)); err == nil {
				lease, started = renewed, sent
			} else if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || time.Since(started) >= f.Length*2/3 {
				lose(fmt.Errorf("%w: %w", ErrLost, err))
				return
			}
		}
	}()
	release := func() {
		finish()
		<-ended
		defer lose(nil)
		if held.Err() != nil && errors.Is(context.Cause(held), ErrLost) {
			return
		}
		// Also when the caller was told to end: who comes next should not have to wait.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.Length/3)
		defer cancel()
		none := ""
		lease.Spec.HolderIdentity = &none
		if _, err := f.Client.CoordinationV1().Leases(f.Namespace).Update(clean, lease, metav1.UpdateOptions{FieldManager: f.FieldManager}); err != nil {
			f.Log.Warn("The lease could not be given back; it is free when it ends", "lease", f.Namespace+"/"+f.Name, "err", err)
		}
	}
	return held, release, nil
}

func (f *Fence) renew(ctx context.Context, lease *coordinationv1.Lease, until time.Time) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	next := lease.DeepCopy()
	f.sign(next)
	return f.Client.CoordinationV1().Leases(f.Namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: f.FieldManager})
}
