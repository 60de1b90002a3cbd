package apf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrolapply "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/apf/plan"
	"github.com/seakeep/seakeep/internal/fence"
)

// Options are what a Writer needs.
type Options struct {
	Client kubernetes.Interface
	// Journal may be nil: then originals are in the cluster only.
	Journal *Journal
	// Holder names this process in the leases.
	Holder string
	// Lease is how long a lease outlives a process that died; default 15 s.
	Lease time.Duration
	Now   func() time.Time // default time.Now
	Log   *slog.Logger
}

// Writer writes Seakeep's objects of API Priority and Fairness. Each change is made under a Lease, so that of all processes one
// writes at a time, and against the version that was read. Its methods may be called from several goroutines.
type Writer struct{ o Options }

// NewWriter asks nothing of the cluster.
func NewWriter(o Options) *Writer {
	if o.Lease == 0 {
		o.Lease = 15 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Writer{o: o}
}

// Fence is the lease of that name, held by this process.
func (w *Writer) Fence(name string) *fence.Fence {
	return &fence.Fence{Client: w.o.Client, Namespace: LeaseNamespace, Name: name, FieldManager: FieldManager, Holder: w.o.Holder, Length: w.o.Lease, Log: w.o.Log}
}

// transaction runs f while this process alone may write.
func (w *Writer) transaction(ctx context.Context, f func(context.Context) error) error {
	held, release, err := w.Fence(WriterLease).Acquire(ctx, nil)
	if err != nil {
		return err
	}
	defer release()
	err = f(held)
	if err != nil && errors.Is(context.Cause(held), fence.ErrLost) {
		return fmt.Errorf("%w: %w", context.Cause(held), err)
	}
	return err
}

// Read reads the state, with what the journal remembers.
func (w *Writer) Read(ctx context.Context) (*State, error) {
	journal, err := w.o.Journal.Load()
	if err != nil {
		// The annotations are enough, unless somebody stripped them.
		w.o.Log.Warn("The journal cannot be read", "err", err)
	}
	return Read(ctx, w.o.Client, journal)
}

// ForeignError says that somebody else changed a level that Seakeep had edited. Two hands on one field would only fight.
type ForeignError struct {
	// Levels are their names, Managers who wrote their specs, as far as the objects say.
	Levels, Managers []string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the priority levels %s were changed by somebody else (%s) while Seakeep had them edited", strings.Join(e.Levels, ", "), strings.Join(e.Managers, ", "))
}

func (s *State) foreign() error {
	var e ForeignError
	for _, edit := range s.Edited {
		if !edit.Foreign {
			continue
		}
		e.Levels = append(e.Levels, edit.Level)
		for _, m := range s.objects[edit.Level].ManagedFields {
			if m.Manager != FieldManager && m.Subresource == "" && !slices.Contains(e.Managers, m.Manager) {
				e.Managers = append(e.Managers, m.Manager)
			}
		}
	}
	if e.Levels == nil {
		return nil
	}
	return &e
}

// Apply puts a plan in force. The objects are written one after the other: the protected levels' shares grow before the ballast
// does and shrink after it, so that no ballast is in force without them. What one of them gains first dilutes the others until
// they are written too; plans that are at most a factor of two apart keep that to about half their seats (see plan.Pacer).
func (w *Writer) Apply(ctx context.Context, p plan.Plan) error {
	if p.Ballast == 0 {
		_, err := w.Restore(ctx)
		return err
	}
	return w.transaction(ctx, func(ctx context.Context) error {
		s, err := w.Read(ctx)
		if err != nil {
			return err
		}
		if err := s.foreign(); err != nil {
			return err
		}
		edits, err := w.edits(s, p)
		if err != nil {
			return err
		}
		if err := w.remember(s, edits); err != nil {
			return err
		}
		steps := []func() error{func() error { return w.editAll(ctx, s, edits) }, func() error { return w.ballast(ctx, p.Ballast) }}
		if p.Ballast < s.Ballast {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
}

// edits are the protected levels as they are to be, those with the smallest change first: what one gains dilutes the others
// until they are written too.
func (w *Writer) edits(s *State, p plan.Plan) (edits []Edit, err error) {
	for _, row := range p.Rows {
		if row.Role != plan.RoleProtected {
			continue
		}
		pl := s.objects[row.Name]
		if pl == nil {
			return nil, fmt.Errorf("the priority level %s is gone", row.Name)
		}
		i := slices.IndexFunc(s.Edited, func(e Edit) bool { return e.Level == row.Name })
		if i < 0 && !row.Changed() {
			continue
		}
		e := Edit{Level: row.Name, Original: Original{Shares: row.SharesBefore, Lendable: row.LendableBefore, AutoUpdate: pl.Annotations[autoUpdateKey]}}
		if i >= 0 {
			e.Original = s.Edited[i].Original
		}
		if e.Original.Shares != row.SharesBefore || e.Original.Lendable != row.LendableBefore {
			return nil, fmt.Errorf("the priority level %s changed after the plan was made", row.Name)
		}
		e.Original.WroteShares, e.Original.WroteLendable = row.SharesAfter, row.LendableAfter
		edits = append(edits, e)
	}
	slices.SortStableFunc(edits, func(a, b Edit) int { return int(a.Original.WroteShares) - int(b.Original.WroteShares) })
	if p.Ballast < s.Ballast {
		slices.Reverse(edits)
	}
	return edits, nil
}

// remember writes the journal before the cluster.
func (w *Writer) remember(s *State, edits []Edit) error {
	journal := map[string]Original{}
	for _, e := range slices.Concat(s.Edited, edits) {
		journal[e.Level] = e.Original
	}
	if before, err := w.o.Journal.Load(); err == nil && maps.Equal(before, journal) {
		return nil
	}
	if err := w.o.Journal.Save(journal); err != nil {
		return fmt.Errorf("writing the journal, without which nothing is edited: %w", err)
	}
	return nil
}

func (w *Writer) editAll(ctx context.Context, s *State, edits []Edit) error {
	for _, e := range edits {
		pl := s.objects[e.Level]
		now := levelOf(pl)
		if now.Shares == e.Original.WroteShares && now.Lendable == e.Original.WroteLendable && pl.Annotations[originalKey] == e.Original.text() &&
			pl.Annotations[autoUpdateKey] == "false" {
			continue
		}
		// In one request with the shares: an API server that saw one without the other would put its own back.
		annotations := map[string]string{autoUpdateKey: "false", originalKey: e.Original.text()}
		if err := w.shares(ctx, pl, e.Original.WroteShares, e.Original.WroteLendable, annotations); err != nil {
			return err
		}
	}
	return nil
}

// shares writes a level's shares against the version that was read. Annotations of Seakeep's that are not given go away.
func (w *Writer) shares(ctx context.Context, pl *flowcontrolv1.PriorityLevelConfiguration, shares, lendable int32, annotations map[string]string) error {
	edit := flowcontrolapply.PriorityLevelConfiguration(pl.Name).WithUID(pl.UID).WithResourceVersion(pl.ResourceVersion).
		WithAnnotations(annotations).
		WithSpec(flowcontrolapply.PriorityLevelConfigurationSpec().WithType(flowcontrolv1.PriorityLevelEnablementLimited).
			WithLimited(flowcontrolapply.LimitedPriorityLevelConfiguration().WithNominalConcurrencyShares(shares).WithLendablePercent(lendable)))
	if _, err := w.o.Client.FlowcontrolV1().PriorityLevelConfigurations().Apply(ctx, edit, metav1.ApplyOptions{FieldManager: FieldManager, Force: true}); err != nil {
		return fmt.Errorf("writing the priority level %s: %w", pl.Name, err)
	}
	return nil
}

func (w *Writer) ballast(ctx context.Context, shares int32) error {
	ballast := flowcontrolapply.PriorityLevelConfiguration(plan.Ballast).
		WithLabels(map[string]string{managedBy: managedByUs, partLabel: partBallast}).
		WithAnnotations(map[string]string{autoUpdateKey: "false"}).
		WithSpec(flowcontrolapply.PriorityLevelConfigurationSpec().WithType(flowcontrolv1.PriorityLevelEnablementLimited).
			WithLimited(flowcontrolapply.LimitedPriorityLevelConfiguration().
				WithNominalConcurrencyShares(shares).WithLendablePercent(0).WithBorrowingLimitPercent(0).
				WithLimitResponse(flowcontrolapply.LimitResponse().WithType(flowcontrolv1.LimitResponseTypeReject))))
	if _, err := w.o.Client.FlowcontrolV1().PriorityLevelConfigurations().Apply(ctx, ballast, metav1.ApplyOptions{FieldManager: FieldManager, Force: true}); err != nil {
		return fmt.Errorf("writing the priority level %s: %w", plan.Ballast, err)
	}
	return nil
}

// Restored says what Restore did.
type Restored struct {
	// Ballast is true when there was one.
	Ballast bool `json:"ballast"`
	// Levels were put back; Left were not, because somebody else had changed them since, and lost Seakeep's mark only.
	Levels []string `json:"levels"`
	Left   []string `json:"left"`
}

// Restore takes the ballast away and puts back what was edited: from the annotations in the cluster, and from the journal for
// those that have lost theirs. Jails stay until their time is over.
func (w *Writer) Restore(ctx context.Context) (Restored, error) {
	r := Restored{Levels: []string{}, Left: []string{}}
	s, err := w.Read(ctx)
	if err != nil {
		return r, err
	}
	if len(s.Edited) == 0 && s.objects[plan.Ballast] == nil {
		return r, w.forget()
	}
	return r, w.transaction(ctx, func(ctx context.Context) error {
		s, err := w.Read(ctx)
		if err != nil {
			return err
		}
		if s.objects[plan.Ballast] != nil {
			r.Ballast = true
			if err := w.o.Client.FlowcontrolV1().PriorityLevelConfigurations().Delete(ctx, plan.Ballast, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("deleting the priority level %s: %w", plan.Ballast, err)
			}
		}
		slices.SortFunc(s.Edited, func(a, b Edit) int { return int(b.Original.WroteShares) - int(a.Original.WroteShares) })
		for _, e := range s.Edited {
			if err := w.restore(ctx, s.objects[e.Level], e); err != nil {
				return err
			}
			if e.Foreign {
				r.Left = append(r.Left, e.Level)
			} else {
				r.Levels = append(r.Levels, e.Level)
			}
		}
		return w.forget()
	})
}

func (w *Writer) restore(ctx context.Context, pl *flowcontrolv1.PriorityLevelConfiguration, e Edit) error {
	annotations := map[string]string{}
	shares, lendable := e.Original.Shares, e.Original.Lendable
	if e.Foreign {
		now := levelOf(pl)
		shares, lendable = now.Shares, now.Lendable
		if value, ok := pl.Annotations[autoUpdateKey]; ok {
			annotations[autoUpdateKey] = value
		}
	} else if e.Original.AutoUpdate != autoUpdateNone {
		annotations[autoUpdateKey] = e.Original.AutoUpdate
	}
	return w.shares(ctx, pl, shares, lendable, annotations)
}

// forget empties the journal, if there is anything in it.
func (w *Writer) forget() error {
	if levels, err := w.o.Journal.Load(); err == nil && len(levels) == 0 {
		return nil
	}
	return w.o.Journal.Save(map[string]Original{})
}
