package limit

import (
	"slices"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// Callers is a compiled list of CallerMatch; nil matches nobody. It is safe for concurrent use.
type Callers struct{ any []callerMatch }

type callerMatch struct {
	users      *globs
	namespaces []string
}

// CompileCallers compiles what Validate accepted.
func CompileCallers(matches []v1alpha1.CallerMatch) *Callers {
	c := &Callers{}
	for _, m := range matches {
		c.any = append(c.any, callerMatch{users: compileGlobs(m.Users), namespaces: m.ServiceAccountNamespaces})
	}
	return c
}

// Match is true when one of the list selects the user.
func (c *Callers) Match(user string) bool {
	if c == nil {
		return false
	}
	caller := flow.Caller{User: user}
	namespace := caller.ServiceAccountNamespace()
	return slices.ContainsFunc(c.any, func(m callerMatch) bool {
		return (m.users == nil || m.users.match(user)) && (m.namespaces == nil || namespace != "" && slices.Contains(m.namespaces, namespace))
	})
}
