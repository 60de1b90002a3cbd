package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// CheckOptions say what to try.
type CheckOptions struct {
	// Kubeconfig is the file to try, every context of it.
	Kubeconfig string
	// Timeout bounds each step; a lane that answers later than this is no lane.
	Timeout time.Duration
	// ExpiresWithin makes a credential that expires sooner a finding. Zero: a quarter of its lifetime.
	ExpiresWithin time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Status is the outcome of one step.
type Status string

// The outcomes. A step that could not be tried because an earlier one failed is Unknown, never a pass.
const (
	Pass    Status = "Pass"
	Fail    Status = "Fail"
	Unknown Status = "Unknown"
)

// Step is one thing tried in one context.
type Step struct {
	Context string  `json:"context"`
	Check   string  `json:"check"`
	Status  Status  `json:"status"`
	Seconds float64 `json:"seconds"`
	Detail  string  `json:"detail"`
}

// Report is what `seakeep break-glass check` prints.
type Report struct {
	Kubeconfig string    `json:"kubeconfig"`
	User       string    `json:"user"`
	Groups     []string  `json:"groups"`
	Serial     string    `json:"serial"`
	NotAfter   time.Time `json:"notAfter"`
	Steps      []Step    `json:"steps"`
}

// Passed is true when every step passed and there was one.
func (r *Report) Passed() bool {
	return len(r.Steps) > 0 && !slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Status != Pass })
}

// servingMargin is how long a serving certificate must still be valid: a week to notice.
const servingMargin = 7 * 24 * time.Hour

// Check tries a kubeconfig end to end: what an engineer would do first in an outage, and nothing that changes the
// cluster. An error means the file cannot be tried at all; everything else is in the report.
func Check(ctx context.Context, opts CheckOptions) (*Report, error) {
	config, err := clientcmd.LoadFromFile(opts.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig: %w", err)
	}
	if len(config.Contexts) == 0 {
		return nil, fmt.Errorf("kubeconfig %s has no context", opts.Kubeconfig)
	}
	report := &Report{Kubeconfig: opts.Kubeconfig}
	for _, name := range contextOrder(config.Contexts) {
		client, err := clientcmd.NewNonInteractiveClientConfig(*config, name, nil, nil).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("reading context %s of %s: %w", name, opts.Kubeconfig, err)
		}
		leaf, err := leafOf(client)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of context %s of %s: %w", name, opts.Kubeconfig, err)
		}
		if report.Serial == "" {
			report.User, report.Groups = leaf.Subject.CommonName, leaf.Subject.Organization
			report.Serial, report.NotAfter = Serial(leaf), leaf.NotAfter
			report.Steps = append(report.Steps, expiry(leaf, opts))
		}
		trial := &trial{name: name, config: client, leaf: leaf, opts: opts}
		report.Steps = append(report.Steps, trial.run(ctx)...)
	}
	return report, nil
}

// contextOrder puts the lane first and sorts the rest.
func contextOrder[T any](contexts map[string]T) []string {
	names := make([]string, 0, len(contexts))
	for name := range contexts {
		if name != LaneContext {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if _, ok := contexts[LaneContext]; ok {
		names = slices.Insert(names, 0, LaneContext)
	}
	return names
}

func leafOf(config *rest.Config) (*x509.Certificate, error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	if tlsConfig == nil || tlsConfig.GetClientCertificate == nil {
		return nil, errors.New("it has no client certificate")
	}
	pair, err := tlsConfig.GetClientCertificate(nil)
	if err != nil {
		return nil, err
	}
	if pair == nil || len(pair.Certificate) == 0 {
		return nil, errors.New("it has no client certificate")
	}
	return x509.ParseCertificate(pair.Certificate[0])
}

func expiry(leaf *x509.Certificate, opts CheckOptions) Step {
	now := opts.Now()
	margin := opts.ExpiresWithin
	if margin == 0 {
		margin = leaf.NotAfter.Sub(leaf.NotBefore) / 4
	}
	left := leaf.NotAfter.Sub(now).Truncate(time.Second)
	step := Step{Context: "-", Check: "credential expiry", Status: Pass, Detail: fmt.Sprintf("expires %s, in %v", stamp(leaf.NotAfter), left)}
	switch {
	case left <= 0:
		step.Status, step.Detail = Fail, "expired "+stamp(leaf.NotAfter)
	case left < margin:
		step.Status = Fail
		step.Detail += fmt.Sprintf(", sooner than %v: issue a new one", margin.Truncate(time.Second))
	}
	return step
}

// trial tries one context.
type trial struct {
	name   string
	config *rest.Config
	leaf   *x509.Certificate
	opts   CheckOptions
}

// errNotTried marks the steps after one without which they cannot work.
var errNotTried = errors.New("not tried: the server was not reached")

func (t *trial) run(ctx context.Context) []Step {
	reached := true
	var client *kubernetes.Clientset
	steps := []struct {
		check string
		do    func(context.Context) (string, error)
	}{
		{"reach", func(ctx context.Context) (string, error) {
			detail, err := t.reach(ctx)
			reached = err == nil
			if err == nil {
				client, err = kubernetes.NewForConfig(t.config)
			}
			return detail, err
		}},
		{"GET /readyz", func(ctx context.Context) (string, error) {
			body, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
			return string(body), err
		}},
		{"GET namespaces", func(ctx context.Context) (string, error) {
			list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 500})
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%d listed", len(list.Items)), nil
		}},
		{"who am I", func(ctx context.Context) (string, error) { return t.whoAmI(ctx, client) }},
		{"may delete daemonsets", func(ctx context.Context) (string, error) { return mayDelete(ctx, client) }},
		{"PATCH (dry run)", func(ctx context.Context) (string, error) {
			patch := []byte(`{"metadata":{"annotations":{"seakeep.dev/break-glass-check":"dry-run"}}}`)
			_, err := client.CoreV1().Namespaces().Patch(ctx, metav1.NamespaceSystem, types.MergePatchType, patch,
				metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}, FieldManager: "seakeep-break-glass-check"})
			return "namespace " + metav1.NamespaceSystem, err
		}},
	}
	results := make([]Step, 0, len(steps))
	for _, step := range steps {
		result := Step{Context: t.name, Check: step.check, Status: Pass}
		if !reached {
			result.Status, result.Detail = Unknown, errNotTried.Error()
			results = append(results, result)
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, t.opts.Timeout)
		start := t.opts.Now()
		detail, err := step.do(bounded)
		result.Seconds = t.opts.Now().Sub(start).Seconds()
		cancel()
		result.Detail = detail
		if err != nil {
			result.Status, result.Detail = Fail, err.Error()
		}
		results = append(results, result)
	}
	return results
}

// reach makes a connection with the credential, as client-go would, and looks at the serving certificate.
func (t *trial) reach(ctx context.Context) (string, error) {
	tlsConfig, err := rest.TLSConfigFor(t.config)
	if err != nil {
		return "", err
	}
	host, err := hostPort(t.config.Host)
	if err != nil {
		return "", err
	}
	dialer := &tls.Dialer{Config: tlsConfig}
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	serving := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	detail := fmt.Sprintf("%s, serving certificate expires %s", host, stamp(serving.NotAfter))
	if serving.NotAfter.Sub(t.opts.Now()) < servingMargin {
		return detail, fmt.Errorf("%s: in less than %v", detail, servingMargin)
	}
	return detail, nil
}

func hostPort(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("reading server %q: %w", server, err)
	}
	if u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("server %q must be https://host:port", server)
	}
	if u.Port() != "" {
		return u.Host, nil
	}
	return net.JoinHostPort(u.Hostname(), "443"), nil
}

// whoAmI compares whom the API server sees with whom the certificate names.
func (t *trial) whoAmI(ctx context.Context, client kubernetes.Interface) (string, error) {
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	seen := review.Status.UserInfo
	if want := t.leaf.Subject.CommonName; seen.Username != want {
		return "", fmt.Errorf("the API server sees user %q, the certificate names %q", seen.Username, want)
	}
	for _, group := range t.leaf.Subject.Organization {
		if !slices.Contains(seen.Groups, group) {
			return "", fmt.Errorf("the API server does not see group %q, only %q", group, seen.Groups)
		}
	}
	return fmt.Sprintf("%s in %v", seen.Username, t.leaf.Subject.Organization), nil
}

// mayDelete asks for what would have ended the outage of 2024-12-11: deleting the telemetry DaemonSet.
func mayDelete(ctx context.Context, client kubernetes.Interface) (string, error) {
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "delete", Group: "apps", Resource: "daemonsets",
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if !review.Status.Allowed {
		return "", fmt.Errorf("the API server says no: %s", review.Status.Reason)
	}
	return "in every namespace", nil
}
