package v1alpha1

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PolicyMode is whether a policy of the gate's own acts.
type PolicyMode string

// The modes of a policy.
const (
	// PolicyEnforce acts.
	PolicyEnforce PolicyMode = "Enforce"
	// PolicyShadow counts and names whom it would have turned away, and turns nobody away.
	PolicyShadow PolicyMode = "Shadow"
	// PolicyDisabled does not look.
	PolicyDisabled PolicyMode = "Disabled"
)

// GateClamp is what happens to a client whose cost grows with the number of nodes it runs on and whose forecast for all nodes
// passes the headroom. It is named in any mode but Disabled; a clamp is an emergency throttle of that user, with an end.
type GateClamp struct {
	// Mode is Shadow (the default: the clamp is set in shadow, so that whom it would have hurt is counted), Enforce or Disabled.
	Mode PolicyMode `json:"mode,omitempty"`
	// HeadroomPercent is the part of the seats that others usually leave which one client's forecast may take. Default 50,
	// 1–100; lower finds more, and more that is harmless.
	HeadroomPercent int `json:"headroomPercent,omitempty"`
	// Duration is how long a clamp lasts; it is prolonged while its cause persists. Default 10m, 1m–24h.
	Duration *metav1.Duration `json:"duration,omitempty"`
	// Capacity is how many seats all API servers together have. Default: the limit of overload, where that is on; else four for
	// each processor they say they use (GOMAXPROCS in their metrics), or eight for each API server that does not say, and then
	// a request is one seat whatever it asks for.
	Capacity int `json:"capacity,omitempty"`
	// Nodes is how many sources a client may come to have. Default: the nodes of the cluster, or the kubelets seen.
	Nodes int `json:"nodes,omitempty"`
	// Exempt are clients that are never clamped, only named. Nodes, the control plane's components and the ServiceAccounts
	// of kube-system and of known network plugins are so by themselves.
	Exempt []CallerMatch `json:"exempt,omitempty"`
}

// CallerMatch selects clients by what cannot be claimed. Within a list any entry may match; across fields all must.
type CallerMatch struct {
	// Users are globs over the user name.
	Users []string `json:"users,omitempty"`
	// ServiceAccountNamespaces match ServiceAccounts of these namespaces.
	ServiceAccountNamespaces []string `json:"serviceAccountNamespaces,omitempty"`
}

// GateBudgets enforces what workloads declared they need of the API: the annotation seakeep.dev/api-budget on a
// ServiceAccount, or on the DaemonSets, Deployments and StatefulSets that run under it, which add up; a ServiceAccount's own
// word stands for the whole. The user agent plays no part.
type GateBudgets struct {
	// Mode is Shadow (the default), Enforce or Disabled.
	Mode PolicyMode `json:"mode,omitempty"`
	// Default is the budget of ServiceAccounts that declare none, such as "seats-per-node=0.02,seats=4"; left out: none.
	Default string `json:"default,omitempty"`
	// Max is the most that is granted, whatever was declared; left out: what was declared.
	Max string `json:"max,omitempty"`
	// Exempt are clients without a budget. ServiceAccounts of kube-system are so by themselves.
	Exempt []CallerMatch `json:"exempt,omitempty"`
	// User is whom the gate reads declarations as, by its front-proxy certificate; default seakeep:policy. It needs list on
	// serviceaccounts, nodes, and apps' daemonsets, deployments and statefulsets, and get on /metrics.
	User string `json:"user,omitempty"`
	// Refresh is how often they are read; what was read last is kept on disk and in force until then. Default 3m, 30s–1h.
	Refresh *metav1.Duration `json:"refresh,omitempty"`
}

// PolicyUser is whom a gate reads nodes and declarations as, unless budgets.user says otherwise.
const PolicyUser = "seakeep:policy"

func (c *GateClamp) setDefaults() {
	if c.Mode == "" {
		c.Mode = PolicyShadow
	}
	if c.HeadroomPercent == 0 {
		c.HeadroomPercent = 50
	}
	if c.Duration == nil {
		c.Duration = &metav1.Duration{Duration: 10 * time.Minute}
	}
}

func (b *GateBudgets) setDefaults() {
	if b.Mode == "" {
		b.Mode = PolicyShadow
	}
	if b.User == "" {
		b.User = PolicyUser
	}
	if b.Refresh == nil {
		b.Refresh = &metav1.Duration{Duration: 3 * time.Minute}
	}
}

func (c *GateClamp) validate(path *field.Path) field.ErrorList {
	errs := validatePolicyMode(c.Mode, path.Child("mode"))
	if p := c.HeadroomPercent; p < 1 || p > 100 {
		errs = append(errs, field.Invalid(path.Child("headroomPercent"), p, "must be between 1 and 100"))
	}
	if d := c.Duration.Duration; d < time.Minute || d > MaxEmergencyDuration {
		errs = append(errs, field.Invalid(path.Child("duration"), d.String(), "must be between 1m and 24h: every clamp ends by itself"))
	}
	for name, n := range map[string]int{"capacity": c.Capacity, "nodes": c.Nodes} {
		if n < 0 || n > 100_000 {
			errs = append(errs, field.Invalid(path.Child(name), n, "must be between 1 and 100000, or left out"))
		}
	}
	return append(errs, validateCallers(c.Exempt, path.Child("exempt"))...)
}

func (b *GateBudgets) validate(path *field.Path) field.ErrorList {
	errs := validatePolicyMode(b.Mode, path.Child("mode"))
	for name, text := range map[string]string{"default": b.Default, "max": b.Max} {
		if text == "" {
			continue
		}
		if _, err := ParseAPIBudget(text); err != nil {
			errs = append(errs, field.Invalid(path.Child(name), text, err.Error()))
		}
	}
	errs = append(errs, required(b.User, path.Child("user"), "whom the gate reads declarations as")...)
	if d := b.Refresh.Duration; d < 30*time.Second || d > time.Hour {
		errs = append(errs, field.Invalid(path.Child("refresh"), d.String(), "must be between 30s and 1h"))
	}
	return append(errs, validateCallers(b.Exempt, path.Child("exempt"))...)
}

func validatePolicyMode(mode PolicyMode, path *field.Path) field.ErrorList {
	if modes := []PolicyMode{PolicyEnforce, PolicyShadow, PolicyDisabled}; !slices.Contains(modes, mode) {
		return field.ErrorList{field.NotSupported(path, mode, modes)}
	}
	return nil
}

func validateCallers(matches []CallerMatch, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, m := range matches {
		p := path.Index(i)
		if len(m.Users)+len(m.ServiceAccountNamespaces) == 0 {
			errs = append(errs, field.Required(p, "users or serviceAccountNamespaces: an empty entry would except everyone"))
		}
		errs = append(errs, validatePatterns(m.Users, p.Child("users"))...)
		for j, ns := range m.ServiceAccountNamespaces {
			if problems := validation.IsDNS1123Label(ns); len(problems) > 0 {
				errs = append(errs, field.Invalid(p.Child("serviceAccountNamespaces").Index(j), ns, fmt.Sprintf("must be a namespace's exact name: %s", problems[0])))
			}
		}
	}
	return errs
}
