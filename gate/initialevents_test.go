package gate

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestInitialEvents(t *testing.T) {
	const bookmark = `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}`
	tests := map[string]struct {
		writes []string
		pause  time.Duration // after the last write
		want   bool          // the phase is over
	}{
		"under way":                 {writes: []string{"ADDED", "ADDED"}, want: false},
		"the bookmark ends it":      {writes: []string{"ADDED", bookmark}, want: true},
		"split over two writes":     {writes: []string{bookmark[:60], bookmark[60:]}, want: true},
		"split over three":          {writes: []string{bookmark[:58], bookmark[58:66], bookmark[66:]}, want: true},
		"quiet ends it":             {writes: []string{"ADDED"}, pause: quietFor + time.Millisecond, want: true},
		"not yet quiet":             {writes: []string{"ADDED"}, pause: quietFor - time.Millisecond, want: false},
		"no answer for a minute":    {pause: time.Minute + time.Millisecond, want: true},
		"the first answer may wait": {pause: 50 * time.Second, want: false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := 0
				i := watchInitialEvents(func() { over++ })
				for _, w := range test.writes {
					i.wrote([]byte(w))
				}
				<-time.After(test.pause) // of the fake clock
				synctest.Wait()
				if got := over == 1; got != test.want {
					t.Errorf("the phase is over: %v, want %v", got, test.want)
				}
				i.finish()
				i.finish()
				if over != 1 {
					t.Errorf("the end was reported %d times", over)
				}
			})
		})
	}
}
