package scenarios

import (
	"errors"
	"testing"
)

func TestAllScenariosAreValid(t *testing.T) {
	if len(Names()) == 0 {
		t.Fatal("no scenario is embedded")
	}
	for _, name := range Names() {
		d, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if d.Name != name {
			t.Errorf("file %s.yaml holds scenario %q", name, d.Name)
		}
		if d.Rehearsal != "" {
			if _, err := Load(d.Rehearsal); err != nil {
				t.Errorf("%s: rehearsal: %v", name, err)
			}
		}
	}
}

func TestLoadUnknown(t *testing.T) {
	for _, name := range []string{"nothing", "", "../scenarios", "a/b"} {
		if _, err := Load(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("Load(%q): want ErrUnknown, got %v", name, err)
		}
	}
}
