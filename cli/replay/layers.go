package replay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

// The layers a run may have, in the order a request meets them.
const (
	// None is the cluster as it is.
	None = "none"
	// Gate is the gate and its break-glass lane, with what ships as the default.
	Gate = "gate"
	// GateUnlimited is the same with every limit off, to see what break-glass can do by itself.
	GateUnlimited = "gate-unlimited"
	// Relay is a gate with every limit off that shares the reads of pods between clients, to see what sharing does by
	// itself.
	Relay = "relay"
	// Overload is a gate with every limit off that admits requests by what they cost, whose they are and what the control
	// plane can take, to see what admission does by itself.
	Overload = "overload"
	// Clamp is a gate with every limit off that clamps whose cost grows with its nodes, to see what that does by itself.
	Clamp = "clamp"
	// Rollout steps the change over the nodes and takes it back by itself, instead of applying it to all of them at once.
	Rollout = "rollout"
	// RolloutSmall is the same with the change's cost made small, to see that one that can be afforded gets everywhere.
	RolloutSmall = "rollout-small"
	// DNS is cluster DNS with the plugin seakeep, which keeps its data over its restarts, in place of stock's.
	DNS = "dns"
)

// Layers is what one run has, "none" or layers with commas between.
type Layers string

var known = []string{None, Gate, GateUnlimited, Relay, Overload, Clamp, Rollout, RolloutSmall, DNS}

// ParseLayers checks one value of --layers.
func ParseLayers(text string) (Layers, error) {
	parts := strings.Split(text, ",")
	for _, part := range parts {
		if !slices.Contains(known, part) {
			return "", fmt.Errorf("layer must be one of %s, got %q", strings.Join(known, ", "), part)
		}
	}
	if len(parts) > 1 && slices.Contains(parts, None) {
		return "", fmt.Errorf("none stands alone, got %q", text)
	}
	gates := slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return part == None || part == DNS || part == Rollout || part == RolloutSmall })
	gates = slices.Compact(slices.Sorted(slices.Values(gates)))
	if len(gates) > 1 && !slices.Equal(gates, []string{Clamp, Overload}) {
		return "", fmt.Errorf("there is one gate, with its limits, or with relay, or with overload and clamp in their place, got %q", text)
	}
	if slices.Contains(parts, Rollout) && slices.Contains(parts, RolloutSmall) {
		return "", fmt.Errorf("there is one change, as it was or with its cost made small, got %q", text)
	}
	slices.Sort(parts)
	if len(slices.Compact(parts)) != len(strings.Split(text, ",")) {
		return "", fmt.Errorf("a layer is there once, got %q", text)
	}
	return Layers(text), nil
}

// has says whether the run has a layer.
func (l Layers) has(layer string) bool { return slices.Contains(strings.Split(string(l), ","), layer) }

// gated says whether a gate stands in front, limited or not.
func (l Layers) gated() bool { return l.has(Gate) || l.unlimited() }

// unlimited says whether that gate's limits are off.
func (l Layers) unlimited() bool {
	return l.has(GateUnlimited) || l.has(Relay) || l.has(Overload) || l.has(Clamp)
}

// configure sets what the layer changes in that gate's configuration.
func (l Layers) configure(c *v1alpha1.GateConfiguration) {
	if l.unlimited() {
		c.DefaultLimits = v1alpha1.Disabled
	}
	if l.has(Clamp) {
		c.Clamp.Mode = v1alpha1.PolicyEnforce
	}
	if l.has(Relay) {
		c.Relay = &v1alpha1.GateRelay{Rules: []v1alpha1.RelayRule{{Resources: []string{"pods"}}}}
	}
	if l.has(Overload) {
		c.Overload = &v1alpha1.GateOverload{Mode: v1alpha1.OverloadEnforce}
	}
}

// dnsPlugin is what answers for the cluster in the run. Everything else about DNS is the same in every run.
func (l Layers) dnsPlugin() string {
	if l.has(DNS) {
		return lab.PluginSeakeep
	}
	return lab.PluginStock
}
