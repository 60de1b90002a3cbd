package replay

import "testing"

func TestParseLayers(t *testing.T) {
	for text, want := range map[string]bool{
		"none": true, "gate": true, "gate-unlimited": true,
		"": false, "none,gate": false, "gate,gate": false, "gate,gate-unlimited": false, "moat": false, "gate,": false,
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
