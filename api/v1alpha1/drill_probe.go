package v1alpha1

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DrillProbe asks the target something at a fixed rate: exactly one of its fields is set, and the field is the probe's
// name. No probe waits for its own answer before it asks again, and an answer that comes late counts the time it was
// waited for.
type DrillProbe struct {
	// Admin is an engineer with an ordinary cluster-admin certificate: GET namespaces, LIST the pods of one namespace,
	// PATCH a Deployment. Series: get, list, patch.
	Admin *RequestProbe `json:"admin,omitempty"`
	// BreakGlass is the same through the break-glass lane.
	BreakGlass *RequestProbe `json:"breakglass,omitempty"`
	// Controllers scales a Deployment up and down and waits until the pods run. Series: scale.
	Controllers *RequestProbe `json:"controllers,omitempty"`
	// Leases watches the renewals of node leases. Series: renewal, overdue.
	Leases *LeasesProbe `json:"leases,omitempty"`
	// DNS asks for names as a resolver does, a second time after a failure. Series: cached (through the node caches, asked
	// before), unique (through the node caches, not asked before), afterRestart (the cluster DNS itself, once it was
	// restarted).
	DNS *RequestProbe `json:"dns,omitempty"`
	// Readyz asks every API server whether it is ready. Series: readyz.
	Readyz *RequestProbe `json:"readyz,omitempty"`
}

// RequestProbe sends requests at a fixed rate. All times are machine time.
type RequestProbe struct {
	// Interval is the time between two requests of a series; 10ms–1m.
	Interval metav1.Duration `json:"interval,omitempty"`
	// Timeout ends a request; 10ms–5m.
	Timeout metav1.Duration `json:"timeout,omitempty"`
	// Within is how fast an answer must be to be a success; at most Timeout.
	Within metav1.Duration `json:"within,omitempty"`
}

// LeasesProbe judges the time between two renewals of a node's lease. All times are machine time.
type LeasesProbe struct {
	// Late is the time after which a renewal is late; default 15s, one and a half renew intervals.
	Late metav1.Duration `json:"late,omitempty"`
	// Missed is the time after which it is missed; default 40s, the lease's duration: the node is then called dead.
	Missed metav1.Duration `json:"missed,omitempty"`
}

func (p *DrillProbe) setDefaults() {
	p.Admin.setDefaults(500*time.Millisecond, 5*time.Second, time.Second)
	p.BreakGlass.setDefaults(500*time.Millisecond, 5*time.Second, time.Second)
	p.Controllers.setDefaults(4*time.Second, 30*time.Second, 5*time.Second)
	p.DNS.setDefaults(200*time.Millisecond, 2*time.Second, 2*time.Second)
	p.Readyz.setDefaults(time.Second, 5*time.Second, time.Second)
	if l := p.Leases; l != nil {
		setDuration(&l.Late, 15*time.Second)
		setDuration(&l.Missed, 40*time.Second)
	}
}

func (r *RequestProbe) setDefaults(interval, timeout, within time.Duration) {
	if r == nil {
		return
	}
	setDuration(&r.Interval, interval)
	setDuration(&r.Timeout, timeout)
	setDuration(&r.Within, min(within, r.Timeout.Duration))
}

func setDuration(d *metav1.Duration, value time.Duration) {
	if d.Duration == 0 {
		d.Duration = value
	}
}

// Names returns the names of the probes set in this entry; a valid entry has one.
func (p *DrillProbe) Names() []string {
	var names []string
	for name, set := range map[string]bool{
		"admin": p.Admin != nil, "breakglass": p.BreakGlass != nil, "controllers": p.Controllers != nil,
		"leases": p.Leases != nil, "dns": p.DNS != nil, "readyz": p.Readyz != nil,
	} {
		if set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// probeSeries is the closed list of probes and their series.
var probeSeries = map[string][]string{
	"admin":       {"get", "list", "patch"},
	"breakglass":  {"get", "list", "patch"},
	"controllers": {"scale"},
	"leases":      {"renewal", "overdue"},
	"dns":         {"cached", "unique", "afterRestart"},
	"readyz":      {"readyz"},
}

func (p *DrillProbe) validate(path *field.Path) field.ErrorList {
	names := p.Names()
	switch len(names) {
	case 0:
		return field.ErrorList{field.Required(path, "one probe")}
	case 1:
	default:
		return field.ErrorList{field.Invalid(path, strings.Join(names, ", "), "an entry is exactly one probe")}
	}
	path = path.Child(names[0])
	if l := p.Leases; l != nil {
		if l.Late.Duration <= 0 || l.Missed.Duration < l.Late.Duration {
			return field.ErrorList{field.Invalid(path.Child("missed"), l.Missed.Duration.String(), "must be at least late, and late above 0s")}
		}
		return nil
	}
	for _, r := range []*RequestProbe{p.Admin, p.BreakGlass, p.Controllers, p.DNS, p.Readyz} {
		if r != nil {
			return r.validate(path)
		}
	}
	return nil
}

func (r *RequestProbe) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := r.Interval.Duration; d < 10*time.Millisecond || d > time.Minute {
		errs = append(errs, field.Invalid(path.Child("interval"), d.String(), "must be between 10ms and 1m"))
	}
	if d := r.Timeout.Duration; d < 10*time.Millisecond || d > 5*time.Minute {
		errs = append(errs, field.Invalid(path.Child("timeout"), d.String(), "must be between 10ms and 5m"))
	}
	if d := r.Within.Duration; d <= 0 || d > r.Timeout.Duration {
		errs = append(errs, field.Invalid(path.Child("within"), d.String(), "must be above 0s and at most timeout"))
	}
	return errs
}
