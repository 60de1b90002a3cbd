package gate

import (
	"bytes"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// initialEvents finds the moment a watch has sent the objects that existed when it began. A watch with
// sendInitialEvents=true says so with an annotated bookmark (KEP-3157), whose text stands in JSON, protobuf and CBOR
// alike; an older client's watch from version "0" says nothing and is taken to be done when it has been quiet.
//
// The text may stand in an object as well, and so end the phase early: that gives a client back its place among the
// concurrent LISTs a little sooner, nothing more.
type initialEvents struct {
	began time.Time
	done  func()
	quiet *time.Timer

	mu    sync.Mutex
	tail  []byte // the last bytes written, in case the text is split over two writes
	ended time.Time
}

// quietFor is how long a watch must not have written to be taken as past its initial events. An API server in the
// middle of a LIST does not pause that long unless it is starved, and then the place is better given to someone else.
const quietFor = 2 * time.Second

var initialEventsEnd = []byte(metav1.InitialEventsAnnotationKey)

func watchInitialEvents(done func()) *initialEvents {
	i := &initialEvents{began: time.Now(), done: done}
	i.mu.Lock() // finish may run before quiet is assigned
	defer i.mu.Unlock()
	// The first answer may take as long as any LIST.
	i.quiet = time.AfterFunc(time.Minute, i.finish)
	return i
}

// wrote looks at what was written and reports whether the initial events are still under way.
func (i *initialEvents) wrote(b []byte) bool {
	i.mu.Lock()
	if !i.ended.IsZero() {
		i.mu.Unlock()
		return false
	}
	keep := len(initialEventsEnd) - 1
	seam := append(i.tail, b[:min(keep, len(b))]...)
	found := bytes.Contains(b, initialEventsEnd) || bytes.Contains(seam, initialEventsEnd)
	if len(b) >= keep {
		i.tail = append(i.tail[:0], b[len(b)-keep:]...)
	} else {
		i.tail = append(i.tail[:0], seam[max(0, len(seam)-keep):]...)
	}
	i.quiet.Reset(quietFor)
	i.mu.Unlock()
	if found {
		i.finish()
		return false
	}
	return true
}

// finish ends the phase, once.
func (i *initialEvents) finish() {
	i.mu.Lock()
	first := i.ended.IsZero()
	if first {
		i.ended = time.Now()
	}
	i.quiet.Stop()
	i.mu.Unlock()
	if first {
		i.done()
	}
}

// took is how long the phase lasted, or has lasted so far.
func (i *initialEvents) took() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended.IsZero() {
		return time.Since(i.began)
	}
	return i.ended.Sub(i.began)
}
