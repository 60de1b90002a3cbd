package v1alpha1

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateConnections bounds what clients may hold open. The defaults are for a gate before some thousands of nodes; none
// of them can be switched off, because an unbounded one is how a single host takes the gate away from all others.
type GateConnections struct {
	// Max is how many connections may be open. Default 20000, 16–1000000; about 40 KiB each while idle. It is lowered
	// to three quarters of the process's descriptor limit, and the gate says so when it starts: the rest is for
	// upgraded connections, which take a second one, and for the way to the API servers.
	Max int `json:"max,omitempty"`
	// MaxPerSource is how many of them one address may hold, or one /64 of IPv6, which is one host's. Default half of
	// max: what is left is the reserve for everyone else. Behind a layer-4 balancer that hides addresses everybody is
	// one source: raise it to max there.
	MaxPerSource int `json:"maxPerSource,omitempty"`
	// MaxStreams is how many requests may be under way on one HTTP/2 connection. Default 100, the API server's own
	// (--http2-max-streams-per-connection), 1–1000. Clients open another connection for more.
	MaxStreams int `json:"maxStreams,omitempty"`
}

func (c *GateConnections) setDefaults() {
	if c.Max == 0 {
		c.Max = 20000
	}
	if c.MaxPerSource == 0 {
		c.MaxPerSource = max(1, c.Max/2)
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 100
	}
}

func (c *GateConnections) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Max < 16 || c.Max > 1_000_000 {
		errs = append(errs, field.Invalid(path.Child("max"), c.Max, "must be between 16 and 1000000"))
	}
	if c.MaxPerSource < 1 || c.MaxPerSource > c.Max {
		errs = append(errs, field.Invalid(path.Child("maxPerSource"), c.MaxPerSource, "must be between 1 and max"))
	}
	if c.MaxStreams < 1 || c.MaxStreams > 1000 {
		errs = append(errs, field.Invalid(path.Child("maxStreams"), c.MaxStreams, "must be between 1 and 1000"))
	}
	return errs
}
