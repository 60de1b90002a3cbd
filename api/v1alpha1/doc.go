// Package v1alpha1 holds every kind a Seakeep user writes, group seakeep.dev: one kind a file, each with its
// defaults and its validation. It imports apimachinery and the standard library only, so that any tool can read
// and check Seakeep files without pulling in Seakeep.
package v1alpha1

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// APIVersion is the group and version every document carries.
const APIVersion = "seakeep.dev/v1alpha1"

// Object is one kind a user writes. The order of use is fixed: strict decoding, SetDefaults, Validate; after that
// the value is not changed any more.
type Object interface {
	// SetDefaults fills every field the user left out. It is idempotent.
	SetDefaults()
	// Validate returns every violation, with its field path, the offending value and the rule it breaks. It reads
	// no file and no clock: what needs those (keys, certificates) is checked where they are loaded.
	Validate() field.ErrorList
}

// TypeMeta names a document's kind. It is our own copy so that both fields are strict and neither is optional.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// kinds is the closed list of what this group knows; New is its only reader.
var kinds = map[string]func() Object{
	KindBreakGlassConfiguration: func() Object { return &BreakGlassConfiguration{} },
	KindGateConfiguration:       func() Object { return &GateConfiguration{} },
	KindDrill:                   func() Object { return &Drill{} },
	KindDNSWatchdog:             func() Object { return &DNSWatchdog{} },
	KindClusterShape:            func() Object { return &ClusterShape{} },
	KindFleet:                   func() Object { return &Fleet{} },
	KindRollout:                 func() Object { return &Rollout{} },
}

// New returns an empty object of the kind, or false when the group has no such kind.
func New(kind string) (Object, bool) {
	make, ok := kinds[kind]
	if !ok {
		return nil, false
	}
	return make(), true
}

// Kinds returns the kinds this group knows, sorted.
func Kinds() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
