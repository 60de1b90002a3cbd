package guard

import (
	"fmt"
	"time"
)

// Config says when a loss is suspicious. Raising a ratio or a number lets larger losses through at once.
type Config struct {
	// Off lets everything pass at once; the other fields then mean nothing.
	Off bool
	// Window is how close together losses must come to be one event. The node controller marks a cluster's nodes not
	// ready within seconds of each other, and endpoint slices follow within a second or two. Default 60s.
	Window time.Duration
	// MaxHold is how long a removal is held at most. Default 10m: longer than an API server takes to come back and
	// correct itself, shorter than the day a headless service's dead address would matter.
	MaxHold time.Duration
	// MinServices is how many services must lose something before losses can be correlated at all; one service alone
	// never is. In a cluster with fewer, all of them, and two at least. Default 5.
	MinServices int
	// EmptiedRatio is the part of the services with endpoints that must lose all of them within Window. Default 0.2.
	EmptiedRatio float64
	// LostRatio is the part of all ready endpoints that must be lost within Window. Default 0.5.
	LostRatio float64
	// FewNodes and FewNodesRatio describe a failure of nodes rather than of the messenger: losses on no more nodes than
	// the larger of FewNodes and FewNodesRatio × nodes pass. Defaults 1 and 0.05.
	FewNodes      int
	FewNodesRatio float64
	// ShrinkRatio is the part of what is known that a list may lack without being doubted; nobody saw those objects
	// being deleted, so it is smaller than the ratios above. Default 0.1.
	ShrinkRatio float64
	// MinNamespaces is how many namespaces, with services still in them, must go for it to be many. Default 3.
	MinNamespaces int
}

// Defaults are the configuration's defaults.
func Defaults() Config {
	return Config{
		Window: time.Minute, MaxHold: 10 * time.Minute, MinServices: 5, EmptiedRatio: 0.2, LostRatio: 0.5,
		FewNodes: 1, FewNodesRatio: 0.05, ShrinkRatio: 0.1, MinNamespaces: 3,
	}
}

// Validate says which field is out of its range.
func (c Config) Validate() error {
	if c.Off {
		return nil
	}
	if c.Window <= 0 || c.MaxHold <= 0 {
		return fmt.Errorf("window and maxHold must be > 0, got %v and %v", c.Window, c.MaxHold)
	}
	if c.MinServices < 2 || c.MinNamespaces < 2 {
		return fmt.Errorf("minServices and minNamespaces must be ≥ 2, got %d and %d: one alone is never held", c.MinServices, c.MinNamespaces)
	}
	for name, ratio := range map[string]float64{"emptiedRatio": c.EmptiedRatio, "lostRatio": c.LostRatio, "shrinkRatio": c.ShrinkRatio} {
		if ratio <= 0 || ratio > 1 {
			return fmt.Errorf("%s must be > 0 and ≤ 1, got %v", name, ratio)
		}
	}
	if c.FewNodes < 0 || c.FewNodesRatio < 0 || c.FewNodesRatio >= 1 {
		return fmt.Errorf("fewNodes must be ≥ 0 and fewNodesRatio ≥ 0 and < 1, got %d and %v", c.FewNodes, c.FewNodesRatio)
	}
	return nil
}
