package keeper

import (
	"runtime/debug"
	"testing"
)

// percent reads the collector's percentage.
func percent() int {
	p := debug.SetGCPercent(100)
	debug.SetGCPercent(p)
	return p
}

func TestSpare(t *testing.T) {
	for name, tc := range map[string]struct{ usual, during int }{
		"as it is":          {100, sparingPercent},
		"generous":          {400, sparingPercent},
		"sparing already":   {10, 10},
		"the limit decides": {-1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(tc.usual))
			first, second := spare(), spare()
			first()
			if got := percent(); got != tc.during {
				t.Errorf("while a list is read it is %d, want %d", got, tc.during)
			}
			second()
			if got := percent(); got != tc.usual {
				t.Errorf("afterwards it is %d, want %d", got, tc.usual)
			}
		})
	}
}
