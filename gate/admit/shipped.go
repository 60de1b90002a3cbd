package admit

import (
	_ "embed"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

//go:embed levels.yaml
var levelsYAML []byte

// Shipped returns the rules that sort requests into levels when no operator's rule does. Each call returns a new copy.
func Shipped() []v1alpha1.OverloadRule {
	var file struct {
		Rules []v1alpha1.OverloadRule `json:"rules"`
	}
	if err := yaml.UnmarshalStrict(levelsYAML, &file); err != nil {
		panic(fmt.Sprintf("BUG: the shipped levels do not decode: %v", err))
	}
	return file.Rules
}
