package replay

import (
	"testing"

	"github.com/seakeep/seakeep/lab"
)

func TestParseLayers(t *testing.T) {
	for text, want := range map[string]bool{
		"none": true, "gate": true, "gate-unlimited": true, "dns": true, "gate,dns": true, "gate-unlimited,dns": true,
		"": false, "none,gate": false, "gate,gate": false, "gate,gate-unlimited": false, "moat": false, "gate,": false, "none,dns": false, "dns,dns": false,
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
	for layers, want := range map[Layers]struct {
		gated  bool
		plugin string
	}{
		None:       {plugin: lab.PluginStock},
		Gate:       {gated: true, plugin: lab.PluginStock},
		DNS:        {plugin: lab.PluginSeakeep},
		"gate,dns": {gated: true, plugin: lab.PluginSeakeep},
	} {
		if layers.gated() != want.gated || layers.dnsPlugin() != want.plugin {
			t.Errorf("%s: want gated %v and plugin %s, got %v and %s", layers, want.gated, want.plugin, layers.gated(), layers.dnsPlugin())
		}
	}
}
