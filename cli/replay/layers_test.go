package replay

import (
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

func TestParseLayers(t *testing.T) {
	for text, want := range map[string]bool{
		"none": true, "gate": true, "gate-unlimited": true, "dns": true, "gate,dns": true, "gate-unlimited,dns": true,
		"relay": true, "relay,dns": true, "overload": true, "overload,dns": true, "clamp": true, "clamp,dns": true, "rollout": true, "rollout,dns": true, "gate,rollout": true, "none,rollout": false, "rollout,rollout": false, "rollout-small": true, "rollout,rollout-small": false,
		"": false, "gate,overload": false, "relay,overload": false, "none,overload": false, "clamp,overload": true, "overload,clamp,dns": true, "clamp,relay": false, "gate,clamp": false, "gate,relay": false, "gate-unlimited,relay": false, "none,relay": false, "none,gate": false, "gate,gate": false, "gate,gate-unlimited": false, "moat": false, "gate,": false, "none,dns": false, "dns,dns": false,
	} {
		layers, err := ParseLayers(text)
		if (err == nil) != want {
			t.Errorf("ParseLayers(%q): want ok %v, got %v", text, want, err)
		}
		if err == nil && string(layers) != text {
			t.Errorf("ParseLayers(%q): the name must stay as given, got %q", text, layers)
		}
	}
}

func TestLayersChangeWhatTheyName(t *testing.T) {
	type changes struct {
		gated, limited, shares, admits bool
		plugin                         string
	}
	for layers, want := range map[Layers]changes{
		None:          {plugin: lab.PluginStock},
		Gate:          {gated: true, limited: true, plugin: lab.PluginStock},
		GateUnlimited: {gated: true, plugin: lab.PluginStock},
		Relay:         {gated: true, shares: true, plugin: lab.PluginStock},
		Overload:      {gated: true, admits: true, plugin: lab.PluginStock},
		DNS:           {plugin: lab.PluginSeakeep},
		"gate,dns":    {gated: true, limited: true, plugin: lab.PluginSeakeep},
	} {
		got := changes{gated: layers.gated(), plugin: layers.dnsPlugin()}
		if got.gated {
			config := v1alpha1.GateConfiguration{}
			layers.configure(&config)
			got.limited, got.shares = config.DefaultLimits != v1alpha1.Disabled, config.Relay != nil
			got.admits = config.Overload != nil && config.Overload.Mode == v1alpha1.OverloadEnforce
		}
		if got != want {
			t.Errorf("%s: want %+v, got %+v", layers, want, got)
		}
	}
}
