package v1alpha1

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateRelay shares reads between clients: whoever asks the same thing at the same time gets one answer of the API
// server. Nothing is shared but what Rules name. Shared reads run as the gate's own identity (User), and whoever gets one
// was authenticated and authorized for it by the API server first; everyone else's request is forwarded.
type GateRelay struct {
	// Rules name the resources whose reads are shared; the first that matches decides.
	Rules []RelayRule `json:"rules,omitempty"`
	// Survive keeps the newest complete LIST of a few resources on disk, for when every API server is gone.
	Survive *RelaySurvive `json:"survive,omitempty"`
	// User is who the gate is when it reads for others and asks for reviews. It needs list and watch on the resources
	// named here, create on tokenreviews.authentication.k8s.io and subjectaccessreviews.authorization.k8s.io, list on
	// apiservices.apiregistration.k8s.io, and for Survive get on namespace kube-system; nothing else. Default
	// "seakeep:relay".
	User string `json:"user,omitempty"`
	// MaxMemory bounds all answers and events held for readers. At the bound requests are forwarded, each on its own.
	// Default 512Mi, ≥ 16Mi.
	MaxMemory *resource.Quantity `json:"maxMemory,omitempty"`
	// Reviews bounds how long the API server's word about a caller is believed.
	Reviews RelayReviews `json:"reviews,omitempty"`
}

// RelayMode says how recent a shared answer is.
type RelayMode string

const (
	// RelayMostRecent shares a LIST only with requests that arrived before it started: the answer is as recent as the
	// API server's own. The default.
	RelayMostRecent RelayMode = "MostRecent"
	// RelayBounded lets a request that asks for the most recent state have an answer whose LIST started up to MaxAge
	// before it arrived.
	RelayBounded RelayMode = "Bounded"
)

// RelayRule names resources whose LISTs, WatchLists and WATCHes are shared.
type RelayRule struct {
	// Resources are "plural" for the core group, "plural.group" for others, "*.group", or "*" for all but secrets.
	// Secrets are shared only where a rule names them as "secrets". Resources of aggregated API servers never are,
	// whatever is named.
	Resources []string `json:"resources"`
	// Mode defaults to MostRecent.
	Mode RelayMode `json:"mode,omitempty"`
	// MaxAge belongs to mode Bounded; default 5s, 100ms–1m.
	MaxAge *metav1.Duration `json:"maxAge,omitempty"`
	// FilterWatches, when Enabled, serves watches with a label selector or a field selector on metadata.name,
	// metadata.namespace or spec.nodeName from one upstream watch of the whole resource, filtered here. The gate then
	// holds every object of the resource in memory. Default Disabled: each selector has an upstream watch of its own.
	FilterWatches Switch `json:"filterWatches,omitempty"`
}

// RelaySurvive is what is answered from disk when every API server is gone: LISTs and GETs with resourceVersion=0, and
// watches from the versions those had, held open until an API server is back.
type RelaySurvive struct {
	// Resources are "plural" or "plural.group". Default services, endpointslices.discovery.k8s.io and nodes. Never secrets.
	Resources []string `json:"resources,omitempty"`
	// After is how long no API server has answered before they are taken for gone. Default 5s, 1s–5m.
	After *metav1.Duration `json:"after,omitempty"`
	// GrantTTL is how long a grant of the API server, kept on disk, is believed while no API server can be asked.
	// Default 24h, 1m–720h.
	GrantTTL *metav1.Duration `json:"grantTTL,omitempty"`
}

// RelayReviews bounds caches of the API server's reviews.
type RelayReviews struct {
	// AuthorizationTTL is for grants and denials. Default 10s, 1s–10s.
	AuthorizationTTL *metav1.Duration `json:"authorizationTTL,omitempty"`
	// TokenTTL is for a token found good; it is kept under its hash. Default 1m, 1s–2m.
	TokenTTL *metav1.Duration `json:"tokenTTL,omitempty"`
	// PerTokenExtras, when Enabled, shows the authorizer what stands in a single token (pod and node name, credential
	// id). Needed only where an authorizer reads them: reviews then grow with the number of pods. Default Disabled.
	PerTokenExtras Switch `json:"perTokenExtras,omitempty"`
}

// SurviveDefaults are the resources kept on disk when none are named: what kube-proxy, CNI agents and cluster DNS read
// when they start.
var SurviveDefaults = []string{"services", "endpointslices.discovery.k8s.io", "nodes"}

func (r *GateRelay) setDefaults() {
	if r.User == "" {
		r.User = "seakeep:relay"
	}
	if r.MaxMemory == nil {
		q := resource.MustParse("512Mi")
		r.MaxMemory = &q
	}
	for i := range r.Rules {
		rule := &r.Rules[i]
		if rule.Mode == "" {
			rule.Mode = RelayMostRecent
		}
		if rule.Mode == RelayBounded && rule.MaxAge == nil {
			rule.MaxAge = &metav1.Duration{Duration: 5 * time.Second}
		}
		if rule.FilterWatches == "" {
			rule.FilterWatches = Disabled
		}
	}
	if s := r.Survive; s != nil {
		if s.Resources == nil {
			s.Resources = slices.Clone(SurviveDefaults)
		}
		s.After = orDuration(s.After, 5*time.Second)
		s.GrantTTL = orDuration(s.GrantTTL, 24*time.Hour)
	}
	r.Reviews.AuthorizationTTL = orDuration(r.Reviews.AuthorizationTTL, 10*time.Second)
	r.Reviews.TokenTTL = orDuration(r.Reviews.TokenTTL, time.Minute)
	if r.Reviews.PerTokenExtras == "" {
		r.Reviews.PerTokenExtras = Disabled
	}
}

func orDuration(d *metav1.Duration, def time.Duration) *metav1.Duration {
	if d != nil {
		return d
	}
	return &metav1.Duration{Duration: def}
}

func (r *GateRelay) validate(path *field.Path) field.ErrorList {
	errs := required(r.User, path.Child("user"), "shared reads run as somebody")
	if strings.HasPrefix(r.User, "system:") {
		errs = append(errs, field.Invalid(path.Child("user"), r.User, "must not be one of Kubernetes' own users, whose rights are not for reading"))
	}
	if strings.TrimSpace(r.User) != r.User {
		errs = append(errs, field.Invalid(path.Child("user"), r.User, "must not begin or end with white space, which a header would lose"))
	}
	if r.MaxMemory.Value() < 16<<20 {
		errs = append(errs, field.Invalid(path.Child("maxMemory"), r.MaxMemory.String(), "must be ≥ 16Mi"))
	}
	for i := range r.Rules {
		errs = append(errs, r.Rules[i].validate(path.Child("rules").Index(i))...)
	}
	if r.Survive != nil {
		errs = append(errs, r.Survive.validate(path.Child("survive"))...)
	}
	p := path.Child("reviews")
	errs = append(errs, validateDuration(r.Reviews.AuthorizationTTL, time.Second, 10*time.Second, p.Child("authorizationTTL"))...)
	errs = append(errs, validateDuration(r.Reviews.TokenTTL, time.Second, 2*time.Minute, p.Child("tokenTTL"))...)
	return append(errs, validateSwitch(r.Reviews.PerTokenExtras, p.Child("perTokenExtras"))...)
}

func (r *RelayRule) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "a rule shares what it names"))
	}
	for i, name := range r.Resources {
		errs = append(errs, validateRelayResource(name, true, path.Child("resources").Index(i))...)
	}
	switch r.Mode {
	case RelayMostRecent:
		if r.MaxAge != nil {
			errs = append(errs, field.Forbidden(path.Child("maxAge"), "belongs to mode Bounded"))
		}
	case RelayBounded:
		errs = append(errs, validateDuration(r.MaxAge, 100*time.Millisecond, time.Minute, path.Child("maxAge"))...)
	default:
		errs = append(errs, field.NotSupported(path.Child("mode"), r.Mode, []RelayMode{RelayMostRecent, RelayBounded}))
	}
	return append(errs, validateSwitch(r.FilterWatches, path.Child("filterWatches"))...)
}

func (s *RelaySurvive) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "leave survive out to keep nothing"))
	}
	for i, name := range s.Resources {
		p := path.Child("resources").Index(i)
		errs = append(errs, validateRelayResource(name, false, p)...)
		if name == "secrets" {
			errs = append(errs, field.Forbidden(p, "secrets are never kept on disk"))
		}
	}
	errs = append(errs, validateDuration(s.After, time.Second, 5*time.Minute, path.Child("after"))...)
	return append(errs, validateDuration(s.GrantTTL, time.Minute, 720*time.Hour, path.Child("grantTTL"))...)
}

// validateRelayResource checks "plural" and "plural.group", and where globs are allowed "*" and "*.group".
func validateRelayResource(name string, globs bool, path *field.Path) field.ErrorList {
	plural, group, grouped := strings.Cut(name, ".")
	bad := plural == "" || grouped && group == "" || strings.ContainsAny(name, "/ \t") || strings.ContainsAny(group, "*") ||
		name != strings.ToLower(name) || strings.Contains(plural, "*") && (plural != "*" || !globs)
	if !bad {
		return nil
	}
	if globs {
		return field.ErrorList{field.Invalid(path, name, `must be "plural", "plural.group", "*.group" or "*"; subresources are not shared`)}
	}
	return field.ErrorList{field.Invalid(path, name, `must be "plural" or "plural.group"`)}
}

func validateDuration(d *metav1.Duration, least, most time.Duration, path *field.Path) field.ErrorList {
	if d == nil || d.Duration < least || d.Duration > most {
		value := "none"
		if d != nil {
			value = d.Duration.String()
		}
		return field.ErrorList{field.Invalid(path, value, "must be between "+least.String()+" and "+most.String())}
	}
	return nil
}
