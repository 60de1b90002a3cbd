package limit

import (
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestCallers(t *testing.T) {
	c := CompileCallers([]v1alpha1.CallerMatch{
		{Users: []string{"jane", "ops-*"}},
		{ServiceAccountNamespaces: []string{"monitoring"}, Users: []string{"*:prometheus"}},
		{ServiceAccountNamespaces: []string{"backup"}},
	})
	for user, want := range map[string]bool{
		"jane": true, "ops-1": true, "joe": false, "system:serviceaccount:monitoring:prometheus": true, "system:serviceaccount:monitoring:agent": false,
		"system:serviceaccount:other:prometheus": false, "system:serviceaccount:backup:x": true, "system:serviceaccount:backup": false, "": false,
	} {
		if got := c.Match(user); got != want {
			t.Errorf("%q: %t", user, got)
		}
	}
	var nobody *Callers
	if nobody.Match("jane") || CompileCallers(nil).Match("jane") {
		t.Error("an empty list matches")
	}
}
