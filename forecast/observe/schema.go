package observe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	flowcontrolapply "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// FieldManager owns what is written.
	FieldManager = "seakeep-forecast"
	// Precedence is the matchingPrecedence of a schema: before those of ordinary service accounts (900 of kube-system's, 9000)
	// and after those of leader election (100–200), nodes (400–500) and Kubernetes' own controllers (800), so that a
	// component's leases stay where they are safe.
	Precedence = 850

	managedBy   = "app.kubernetes.io/managed-by"
	managedByUs = "seakeep"
	partLabel   = "seakeep.dev/forecast"
	partMeter   = "meter"
	expiresKey  = "seakeep.dev/forecast-expires"
	forKey      = "seakeep.dev/forecast-for"
)

// Schema is a flow schema and a priority level made for one component: its cost is counted there, and the level caps it.
type Schema struct {
	// ServiceAccount is the component's, namespace/name.
	ServiceAccount string
	// Shares are the level's nominal concurrency shares, 1–1000: of 245 that the others have by default. All of the cluster's
	// seats are divided by all shares, so that few are taken from others, and the component cannot take more than its own.
	Shares int32
	// For is how long it may stay when nobody removes it, 1m–24h.
	For time.Duration
}

const (
	// DefaultShares are a twelfth of all.
	DefaultShares = 20
	// ProbeShares are for the first nodes of a large cluster: a fiftieth of all, twelve seats of the 600 that an API server has by
	// default. A LIST takes at most ten, so that those of a new agent's start come one after the other.
	ProbeShares = 5
)

// Name is the name of both objects.
func (s Schema) Name() string {
	sum := sha256.Sum256([]byte(s.ServiceAccount))
	readable := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s.ServiceAccount))
	readable = strings.Trim(readable[:min(len(readable), 36)], "-")
	return "seakeep-forecast-" + readable + "-" + hex.EncodeToString(sum[:4])
}

// Validate says what is wrong with it.
func (s Schema) Validate() error {
	namespace, name, ok := strings.Cut(s.ServiceAccount, "/")
	switch {
	case !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/*"):
		return fmt.Errorf("a service account must be namespace/name, got %q", s.ServiceAccount)
	case s.Shares < 1 || s.Shares > 1000:
		return fmt.Errorf("shares must be 1–1000, got %d", s.Shares)
	case s.For < time.Minute || s.For > 24*time.Hour:
		return fmt.Errorf("a meter may stay for 1m–24h, got %s", s.For)
	}
	return nil
}

func (s Schema) marks(now time.Time) (labels, annotations map[string]string) {
	return map[string]string{managedBy: managedByUs, partLabel: partMeter},
		map[string]string{expiresKey: now.Add(s.For).UTC().Format(time.RFC3339), forKey: s.ServiceAccount}
}

// Install writes the two objects, or lengthens their time. With dryRun the API server checks them and stores nothing.
func (s Schema) Install(ctx context.Context, client kubernetes.Interface, dryRun bool) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("making a flow schema: %w", err)
	}
	labels, annotations := s.marks(time.Now())
	options := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	// Nothing is lent and nothing borrowed: what the component can take is fixed while it is measured.
	level := flowcontrolapply.PriorityLevelConfiguration(s.Name()).WithLabels(labels).WithAnnotations(annotations).
		WithSpec(flowcontrolapply.PriorityLevelConfigurationSpec().
			WithType(flowcontrolv1.PriorityLevelEnablementLimited).
			WithLimited(flowcontrolapply.LimitedPriorityLevelConfiguration().
				WithNominalConcurrencyShares(s.Shares).WithLendablePercent(0).WithBorrowingLimitPercent(0).
				WithLimitResponse(flowcontrolapply.LimitResponse().
					WithType(flowcontrolv1.LimitResponseTypeQueue).
					WithQueuing(flowcontrolapply.QueuingConfiguration().WithQueues(16).WithHandSize(4).WithQueueLengthLimit(50)))))
	// The level first: a schema that names none is passed over.
	if _, err := client.FlowcontrolV1().PriorityLevelConfigurations().Apply(ctx, level, options); err != nil {
		return fmt.Errorf("writing the priority level %s: %w", s.Name(), err)
	}
	namespace, name, _ := strings.Cut(s.ServiceAccount, "/")
	schema := flowcontrolapply.FlowSchema(s.Name()).WithLabels(labels).WithAnnotations(annotations).
		WithSpec(flowcontrolapply.FlowSchemaSpec().
			WithMatchingPrecedence(Precedence).
			WithPriorityLevelConfiguration(flowcontrolapply.PriorityLevelConfigurationReference().WithName(s.Name())).
			WithDistinguisherMethod(flowcontrolapply.FlowDistinguisherMethod().WithType(flowcontrolv1.FlowDistinguisherMethodByUserType)).
			WithRules(flowcontrolapply.PolicyRulesWithSubjects().
				WithSubjects(flowcontrolapply.Subject().WithKind(flowcontrolv1.SubjectKindServiceAccount).
					WithServiceAccount(flowcontrolapply.ServiceAccountSubject().WithNamespace(namespace).WithName(name))).
				WithResourceRules(flowcontrolapply.ResourcePolicyRule().WithVerbs(flowcontrolv1.VerbAll).
					WithAPIGroups(flowcontrolv1.APIGroupAll).WithResources(flowcontrolv1.ResourceAll).
					WithNamespaces(flowcontrolv1.NamespaceEvery).WithClusterScope(true)).
				WithNonResourceRules(flowcontrolapply.NonResourcePolicyRule().WithVerbs(flowcontrolv1.VerbAll).
					WithNonResourceURLs(flowcontrolv1.NonResourceAll))))
	if _, err := client.FlowcontrolV1().FlowSchemas().Apply(ctx, schema, options); err != nil {
		return fmt.Errorf("writing the flow schema %s: %w", s.Name(), err)
	}
	return nil
}

// Remove deletes the two objects; nothing when they are not there.
func (s Schema) Remove(ctx context.Context, client kubernetes.Interface) error {
	return remove(ctx, client, s.Name())
}

// remove takes the schema first: the other way round its requests would fall through to levels they were kept from.
func remove(ctx context.Context, client kubernetes.Interface, name string) error {
	err := client.FlowcontrolV1().FlowSchemas().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the flow schema %s: %w", name, err)
	}
	err = client.FlowcontrolV1().PriorityLevelConfigurations().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting the priority level %s: %w", name, err)
	}
	return nil
}

// Sweep deletes meters whose time is over: of a process that was killed.
func Sweep(ctx context.Context, client kubernetes.Interface, now time.Time) (removed []string, err error) {
	levels, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, metav1.ListOptions{LabelSelector: partLabel + "=" + partMeter})
	if err != nil {
		return nil, fmt.Errorf("listing priority levels: %w", err)
	}
	var errs []error
	for _, level := range levels.Items {
		expires, err := time.Parse(time.RFC3339, level.Annotations[expiresKey])
		if level.Labels[managedBy] != managedByUs || err == nil && now.Before(expires) {
			continue
		}
		if err := remove(ctx, client, level.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, level.Name)
	}
	return removed, errors.Join(errs...)
}
