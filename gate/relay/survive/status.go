package survive

import (
	"maps"
	"slices"
	"time"
)

// Status is what `seakeep gate relay` shows.
type Status struct {
	// Gone is true while every API server is gone; Since is then when the first of them did not answer.
	Gone  bool      `json:"gone"`
	Since time.Time `json:"since,omitzero"`
	// Grants is how many rights are kept, Watches how many watches are held.
	Grants    int              `json:"grants"`
	Watches   int              `json:"watches"`
	Resources []ResourceStatus `json:"resources"`
}

// ResourceStatus is what is kept of one resource.
type ResourceStatus struct {
	Resource string `json:"resource"`
	// Confirmed is when an API server last vouched for it; zero while nothing is kept.
	Confirmed       time.Time `json:"confirmed,omitzero"`
	ResourceVersion uint64    `json:"resourceVersion,omitempty"`
	Objects         int       `json:"objects"`
	Bytes           int64     `json:"bytes"`
}

// Status says what is kept and what is served.
func (s *Store) Status() Status {
	status := Status{Grants: s.grants.count(), Watches: s.held.count()}
	s.outage.mu.Lock()
	if s.outage.gone != nil {
		status.Gone, status.Since = true, s.outage.began
	}
	s.outage.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.kept)) {
		k := s.kept[name]
		k.mu.Lock()
		r := ResourceStatus{Resource: name, Objects: len(k.objects), Bytes: k.bytes}
		if k.whole {
			r.Confirmed, r.ResourceVersion = k.confirmed, k.version
		}
		k.mu.Unlock()
		status.Resources = append(status.Resources, r)
	}
	return status
}
