package store

// Lost are the endpoints that served serves and truth does not call ready: what would stop being answered if truth took
// served's place. Endpoints that are held already are among them, marked Held.
func Lost(served, truth *EndpointSlice) []Endpoint {
	ready := readySet(truth)
	var lost []Endpoint
	for e := range served.Endpoints() {
		if e.Ready && !ready[e.Address()] {
			lost = append(lost, e)
		}
	}
	return lost
}

// Added counts the endpoints that truth calls ready and served does not serve.
func Added(served, truth *EndpointSlice) int {
	ready := readySet(served)
	n := 0
	for e := range truth.Endpoints() {
		if e.Ready && !ready[e.Address()] {
			n++
		}
	}
	return n
}

// WithHeld returns truth with the endpoints in kept served all the same.
func WithHeld(truth *EndpointSlice, kept []Endpoint) *EndpointSlice {
	if len(kept) == 0 {
		return truth
	}
	keep := make(map[string]bool, len(kept))
	for _, e := range kept {
		keep[e.Address()] = true
	}
	endpoints := make([]Endpoint, 0, int(truth.Total)+len(kept))
	for e := range truth.Endpoints() {
		if keep[e.Address()] {
			delete(keep, e.Address())
			if !e.Ready {
				e.Ready, e.Held = true, true
			}
		}
		endpoints = append(endpoints, e)
	}
	for _, e := range kept {
		if keep[e.Address()] {
			e.Ready, e.Held, e.Gone = true, true, true
			endpoints = append(endpoints, e)
		}
	}
	return NewEndpointSlice(truth.SliceMeta, endpoints)
}

// WithoutHeld is what the source last said of a slice that may have held endpoints.
func WithoutHeld(served *EndpointSlice) *EndpointSlice {
	var endpoints []Endpoint
	held := false
	for e := range served.Endpoints() {
		held = held || e.Held
		if e.Gone {
			continue
		}
		if e.Held {
			e.Ready, e.Held = false, false
		}
		endpoints = append(endpoints, e)
	}
	if !held {
		return served
	}
	return NewEndpointSlice(served.SliceMeta, endpoints)
}

func readySet(s *EndpointSlice) map[string]bool {
	ready := make(map[string]bool, s.Ready)
	for e := range s.Endpoints() {
		if e.Ready {
			ready[e.Address()] = true
		}
	}
	return ready
}
