package replay

import (
	"fmt"
	"slices"
	"strings"

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
	// DNS is cluster DNS with the plugin seakeep, which keeps its data over its restarts, in place of stock's.
	DNS = "dns"
)

// Layers is what one run has, "none" or layers with commas between.
type Layers string

var known = []string{None, Gate, GateUnlimited, DNS}

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
	if slices.Contains(parts, Gate) && slices.Contains(parts, GateUnlimited) {
		return "", fmt.Errorf("a gate is limited or not, got %q", text)
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
func (l Layers) gated() bool { return l.has(Gate) || l.has(GateUnlimited) }

// dnsPlugin is what answers for the cluster in the run. Everything else about DNS is the same in every run.
func (l Layers) dnsPlugin() string {
	if l.has(DNS) {
		return lab.PluginSeakeep
	}
	return lab.PluginStock
}
