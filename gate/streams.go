package gate

import "sync"

// streams are the open long-running requests, so that they can be ended together when the gate stops.
type streams struct {
	mu   sync.Mutex
	next uint64
	ends map[uint64]func(error)
	over error // set by endAll: streams that begin later end at once
}

func newStreams() *streams { return &streams{ends: map[uint64]func(error){}} }

// add registers a stream's end and returns the function that forgets it.
func (s *streams) add(end func(error)) (forget func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		end(s.over)
		return func() {}
	}
	id := s.next
	s.next++
	s.ends[id] = end
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ends, id)
	}
}

// endAll ends every stream, and those still to come.
func (s *streams) endAll(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = cause
	for _, end := range s.ends {
		end(cause)
	}
}
