package relay

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// settings are a configuration's, compiled. They are immutable and swapped whole.
type settings struct {
	config *v1alpha1.GateRelay
	rules  []*rule
}

// rule is a compiled v1alpha1.RelayRule.
type rule struct {
	resources []named
	// maxAge is 0 in mode MostRecent.
	maxAge time.Duration
	filter bool
}

// named is one entry of a rule's resources. anyGroup belongs to "*" only.
type named struct {
	resource, group string
	anyGroup        bool
}

func compile(c *v1alpha1.GateRelay) *settings {
	s := &settings{config: c}
	for _, r := range c.Rules {
		compiled := &rule{filter: r.FilterWatches == v1alpha1.Enabled}
		if r.Mode == v1alpha1.RelayBounded {
			compiled.maxAge = r.MaxAge.Duration
		}
		for _, name := range r.Resources {
			resource, group, _ := strings.Cut(name, ".")
			compiled.resources = append(compiled.resources, named{resource: resource, group: group, anyGroup: name == "*"})
		}
		s.rules = append(s.rules, compiled)
	}
	return s
}

// ruleFor is the first rule that names a resource, nil if none does. Secrets are never meant by a star.
func (s *settings) ruleFor(gr schema.GroupResource) *rule {
	for _, r := range s.rules {
		for _, n := range r.resources {
			switch {
			case n.resource == "*" && gr.Resource == "secrets" && gr.Group == "":
			case !n.anyGroup && n.group != gr.Group:
			case n.resource == "*" || n.resource == gr.Resource:
				return r
			}
		}
	}
	return nil
}
