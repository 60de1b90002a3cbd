package limit

import (
	_ "embed"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// shippedYAML holds the defaults with their reasons, as `seakeep config defaults` prints them.
//
//go:embed shipped.yaml
var shippedYAML []byte

// ShippedYAML returns the defaults as they are written, comments included.
func ShippedYAML() []byte { return slices.Clone(shippedYAML) }

// Shipped returns the rules that protect a cluster without any rule of its operator's. Each call returns a new copy.
func Shipped() []v1alpha1.LimitRule {
	var file struct {
		Limits []v1alpha1.LimitRule `json:"limits"`
	}
	if err := yaml.UnmarshalStrict(shippedYAML, &file); err != nil {
		panic(fmt.Sprintf("BUG: the shipped rules do not decode: %v", err))
	}
	for i := range file.Limits {
		file.Limits[i].SetDefaults()
	}
	return file.Limits
}

// neverDelayedRules are the shipped rules for what a cluster dies without: they stay in force while the standard lane is
// squeezed. They are capped all the same, because their callers can be stolen or broken too.
var neverDelayedRules = []string{"seakeep-own-lease", "seakeep-own-node", "seakeep-leader-election", "seakeep-reviews"}

func neverDelayed(name string) bool { return slices.Contains(neverDelayedRules, name) }
