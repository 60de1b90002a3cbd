package bake

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// TTL is one cache that can hide damage, and for how long.
type TTL struct {
	// Source says where it was found, or what it was declared as.
	Source string
	TTL    time.Duration
}

// Need is how long a bake must be on one cluster, and why.
type Need struct {
	// Least is the shortest that is allowed, Duration what is waited for: the user's minDuration.
	Least, Duration time.Duration
	// Longest is the cache that decides.
	Longest TTL
	// Detection is what the verdict needs after damage shows.
	Detection time.Duration
}

// String says it in a sentence.
func (n Need) String() string {
	if n.Longest.TTL == 0 {
		return fmt.Sprintf("%s; no cache is known, so at least %s to detect", n.Duration, n.Detection)
	}
	return fmt.Sprintf("%s; at least %s, as %s may answer from what it has for %s", n.Duration, n.Least, n.Longest.Source, n.Longest.TTL)
}

// Of says how long the bake must be with what was found on a cluster beside what is declared. A shorter one is refused, with
// the cache that would outlast it.
func Of(spec v1alpha1.RolloutBake, found []TTL, path *field.Path) (Need, *field.Error) {
	all := slices.Clone(found)
	for _, c := range spec.CacheTTLs {
		all = append(all, TTL{Source: c.Name, TTL: c.TTL.Duration})
	}
	n := Need{Duration: spec.MinDuration.Duration, Detection: spec.DetectionWindow.Duration}
	if len(all) > 0 {
		n.Longest = slices.MaxFunc(all, func(a, b TTL) int {
			return cmp.Or(cmp.Compare(a.TTL, b.TTL), -cmp.Compare(a.Source, b.Source))
		})
	}
	n.Least = spec.Least(n.Longest.TTL)
	if n.Duration < n.Least {
		return n, field.Invalid(path.Child("minDuration"), n.Duration.String(), fmt.Sprintf("must be at least %s: %s may answer from what it has for %s, times factor %v, plus %s to detect",
			n.Least, n.Longest.Source, n.Longest.TTL, spec.Factor, n.Detection))
	}
	return n, nil
}
