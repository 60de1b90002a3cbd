package apf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrolapply "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
)

const (
	// JailLevel is the one level of all jails.
	JailLevel = "seakeep-jail"
	// JailPrecedence is the matchingPrecedence of a jail: the lowest number that may be had. Only the schema "exempt" comes
	// before it (system:masters cannot be jailed), and of those with the same number the one whose name sorts first: so
	// Kubernetes' "probes" does, and health checks pass.
	JailPrecedence = 2
	// MaxJail is the longest jail.
	MaxJail = 24 * time.Hour
)

// Jail is who is to get no seat at all, and for how long. Requests that are executing go on, watches too; new ones wait in
// vain and are answered 429.
type Jail struct {
	// Exactly one of these is set. ServiceAccount is namespace/name, and name may be *.
	ServiceAccount, User, Group string
	// Verbs limits the jail to requests for resources with these verbs; none: to everything.
	Verbs []string
	// For is how long, 1s–24h.
	For time.Duration
	// Reason is kept with it.
	Reason string
	// System allows subjects that the cluster lives by.
	System bool
}

// Jailed is a jail in the cluster.
type Jailed struct {
	Name     string    `json:"name"`
	Subjects []string  `json:"subjects"`
	Verbs    []string  `json:"verbs"`
	Since    time.Time `json:"since"`
	// Expires is when it is over; zero when the object does not say, and then it is over.
	Expires time.Time `json:"expires"`
	Reason  string    `json:"reason,omitempty"`
}

// Over is true when the jail's time has passed.
func (j Jailed) Over(now time.Time) bool { return !now.Before(j.Expires) }

// ErrSystem is returned for a subject that the cluster lives by, when Jail.System is not set.
var ErrSystem = errors.New("the cluster lives by it")

// verbs are those that a flow schema may name.
var verbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"}

// Verbs are the verbs that a jail may name.
func Verbs() []string { return slices.Clone(verbs) }

// Validate says what is wrong with the jail.
func (j Jail) Validate() error {
	set := 0
	for _, s := range []string{j.ServiceAccount, j.User, j.Group} {
		if s != "" {
			set++
		}
	}
	namespace, name, _ := strings.Cut(j.ServiceAccount, "/")
	switch {
	case set != 1:
		return fmt.Errorf("a jail needs one service account, user or group, got %d", set)
	case j.ServiceAccount != "" && (namespace == "" || name == "" || strings.Contains(name, "/")):
		return fmt.Errorf("a service account must be namespace/name, got %q", j.ServiceAccount)
	case j.For < time.Second || j.For > MaxJail:
		return fmt.Errorf("a jail must be for 1s to %v, got %v", MaxJail, j.For)
	case len(j.Reason) > 1<<10:
		return errors.New("a reason must be at most a kilobyte")
	case j.Group == "system:masters":
		return errors.New("system:masters is exempt from priority and fairness: no jail holds it")
	}
	for _, verb := range j.Verbs {
		if !slices.Contains(verbs, verb) {
			return fmt.Errorf("a verb must be one of %s, got %q", strings.Join(verbs, ", "), verb)
		}
	}
	if why := j.system(); why != "" && !j.System {
		return fmt.Errorf("%s: %w", why, ErrSystem)
	}
	return nil
}

// system says why the subject is one that the cluster lives by.
func (j Jail) system() string {
	namespace, _, _ := strings.Cut(j.ServiceAccount, "/")
	switch {
	case namespace == LeaseNamespace:
		return "service accounts of " + LeaseNamespace + " are the network, the proxies, DNS and storage"
	case strings.HasPrefix(j.User, "system:serviceaccount:kube-system:"):
		return "service accounts of " + LeaseNamespace + " are the network, the proxies, DNS and storage"
	case strings.HasPrefix(j.User, "system:") && !strings.HasPrefix(j.User, "system:serviceaccount:"):
		return j.User + " is a component of Kubernetes"
	case strings.HasPrefix(j.Group, "system:") && !strings.HasPrefix(j.Group, "system:serviceaccounts:"),
		j.Group == "system:serviceaccounts:kube-system":
		return j.Group + " has components of Kubernetes in it"
	}
	return ""
}

func (j Jail) subject() string {
	switch {
	case j.ServiceAccount != "":
		return "ServiceAccount " + j.ServiceAccount
	case j.User != "":
		return "User " + j.User
	}
	return "Group " + j.Group
}

// Name is the jail's name: the same for the same subject and verbs, so that to jail twice is to jail once, for longer.
func (j Jail) Name() string {
	sorted := slices.Compact(slices.Sorted(slices.Values(j.Verbs)))
	sum := sha256.Sum256([]byte(j.subject() + "\n" + strings.Join(sorted, ",")))
	readable := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(j.ServiceAccount+j.User+j.Group)), "-")
	readable = strings.TrimRight(readable[:min(len(readable), 40)], "-")
	if readable == "" {
		readable = "x"
	}
	return JailLevel + "-" + readable + "-" + hex.EncodeToString(sum[:4])
}

// level dispatches nothing: no seat of its own, none borrowed, and one place to wait in vain. With limitResponse Reject, a
// level of no seats still lets one request through whenever none executes: a request too wide for its level is let through
// alone, and to a level without seats all are too wide.
func level() *flowcontrolapply.PriorityLevelConfigurationApplyConfiguration {
	return flowcontrolapply.PriorityLevelConfiguration(JailLevel).
		WithLabels(map[string]string{managedBy: managedByUs, partLabel: partJail}).
		WithAnnotations(map[string]string{autoUpdateKey: "false"}).
		WithSpec(flowcontrolapply.PriorityLevelConfigurationSpec().
			WithType(flowcontrolv1.PriorityLevelEnablementLimited).
			WithLimited(flowcontrolapply.LimitedPriorityLevelConfiguration().
				WithNominalConcurrencyShares(0).WithLendablePercent(0).WithBorrowingLimitPercent(0).
				WithLimitResponse(flowcontrolapply.LimitResponse().
					WithType(flowcontrolv1.LimitResponseTypeQueue).
					WithQueuing(flowcontrolapply.QueuingConfiguration().WithQueues(1).WithHandSize(1).WithQueueLengthLimit(1)))))
}

func (j Jail) schema(now time.Time) *flowcontrolapply.FlowSchemaApplyConfiguration {
	subject := flowcontrolapply.Subject()
	switch {
	case j.ServiceAccount != "":
		namespace, name, _ := strings.Cut(j.ServiceAccount, "/")
		subject.WithKind(flowcontrolv1.SubjectKindServiceAccount).
			WithServiceAccount(flowcontrolapply.ServiceAccountSubject().WithNamespace(namespace).WithName(name))
	case j.User != "":
		subject.WithKind(flowcontrolv1.SubjectKindUser).WithUser(flowcontrolapply.UserSubject().WithName(j.User))
	default:
		subject.WithKind(flowcontrolv1.SubjectKindGroup).WithGroup(flowcontrolapply.GroupSubject().WithName(j.Group))
	}
	verbs := slices.Compact(slices.Sorted(slices.Values(j.Verbs)))
	all := len(verbs) == 0
	if all {
		verbs = []string{flowcontrolv1.VerbAll}
	}
	rules := flowcontrolapply.PolicyRulesWithSubjects().WithSubjects(subject).
		WithResourceRules(flowcontrolapply.ResourcePolicyRule().WithVerbs(verbs...).
			WithAPIGroups(flowcontrolv1.APIGroupAll).WithResources(flowcontrolv1.ResourceAll).
			WithNamespaces(flowcontrolv1.NamespaceEvery).WithClusterScope(true))
	if all {
		rules.WithNonResourceRules(flowcontrolapply.NonResourcePolicyRule().WithVerbs(flowcontrolv1.VerbAll).WithNonResourceURLs(flowcontrolv1.NonResourceAll))
	}
	return flowcontrolapply.FlowSchema(j.Name()).
		WithLabels(map[string]string{managedBy: managedByUs, partLabel: partJail}).
		WithAnnotations(map[string]string{autoUpdateKey: "false", expiresKey: now.Add(j.For).UTC().Format(time.RFC3339), reasonKey: j.Reason}).
		WithSpec(flowcontrolapply.FlowSchemaSpec().
			WithMatchingPrecedence(JailPrecedence).
			WithPriorityLevelConfiguration(flowcontrolapply.PriorityLevelConfigurationReference().WithName(JailLevel)).
			WithRules(rules))
}

func describeSubject(s flowcontrolv1.Subject) string {
	switch {
	case s.ServiceAccount != nil:
		return "ServiceAccount " + s.ServiceAccount.Namespace + "/" + s.ServiceAccount.Name
	case s.User != nil:
		return "User " + s.User.Name
	case s.Group != nil:
		return "Group " + s.Group.Name
	}
	return string(s.Kind)
}

// Jail puts a client in jail, or lengthens its time. With dryRun the API server checks it and stores nothing.
func (w *Writer) Jail(ctx context.Context, j Jail, dryRun bool) (Jailed, error) {
	if err := j.Validate(); err != nil {
		return Jailed{}, err
	}
	now := w.o.Now()
	jailed := Jailed{Name: j.Name(), Subjects: []string{j.subject()}, Verbs: j.Verbs, Since: now, Expires: now.Add(j.For).Truncate(time.Second), Reason: j.Reason}
	options := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	put := func(ctx context.Context) error {
		// The level first: a schema that names none is passed over.
		if _, err := w.o.Client.FlowcontrolV1().PriorityLevelConfigurations().Apply(ctx, level(), options); err != nil {
			return fmt.Errorf("writing the priority level %s: %w", JailLevel, err)
		}
		if _, err := w.o.Client.FlowcontrolV1().FlowSchemas().Apply(ctx, j.schema(now), options); err != nil {
			return fmt.Errorf("writing the flow schema %s: %w", j.Name(), err)
		}
		return nil
	}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
		return jailed, put(ctx)
	}
	return jailed, w.transaction(ctx, func(ctx context.Context) error {
		if err := w.sweep(ctx); err != nil {
			return err
		}
		return put(ctx)
	})
}

// ErrNoJail is returned by Unjail when there is no jail of that name.
var ErrNoJail = errors.New("no such jail")

// Unjail ends a jail. What waits in it goes on waiting, for a quarter of its time limit at most; what comes next is free.
func (w *Writer) Unjail(ctx context.Context, name string) error {
	return w.transaction(ctx, func(ctx context.Context) error {
		jails, err := readJails(ctx, w.o.Client)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(jails, func(j Jailed) bool { return j.Name == name }) {
			return fmt.Errorf("%w: %s", ErrNoJail, name)
		}
		return w.free(ctx, jails, func(j Jailed) bool { return j.Name == name })
	})
}

// Sweep ends the jails whose time is over. It asks first whether there is any, and takes the lease only then.
func (w *Writer) Sweep(ctx context.Context) error {
	jails, err := readJails(ctx, w.o.Client)
	if err != nil {
		return err
	}
	now := w.o.Now()
	if !slices.ContainsFunc(jails, func(j Jailed) bool { return j.Over(now) }) {
		return nil
	}
	return w.transaction(ctx, w.sweep)
}

func (w *Writer) sweep(ctx context.Context) error {
	jails, err := readJails(ctx, w.o.Client)
	if err != nil {
		return err
	}
	now := w.o.Now()
	return w.free(ctx, jails, func(j Jailed) bool { return j.Over(now) })
}

// free deletes the jails that are to end, and after the last one their level.
func (w *Writer) free(ctx context.Context, jails []Jailed, ends func(Jailed) bool) error {
	left := 0
	for _, j := range jails {
		if !ends(j) {
			left++
			continue
		}
		w.o.Log.Info("Ending a jail", "jail", j.Name, "subjects", j.Subjects)
		if err := w.o.Client.FlowcontrolV1().FlowSchemas().Delete(ctx, j.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting the flow schema %s: %w", j.Name, err)
		}
	}
	if left > 0 || len(jails) == 0 {
		return nil
	}
	if err := w.o.Client.FlowcontrolV1().PriorityLevelConfigurations().Delete(ctx, JailLevel, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the priority level %s: %w", JailLevel, err)
	}
	return nil
}
