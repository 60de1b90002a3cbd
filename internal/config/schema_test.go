package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// The schema and the decoder know the same fields, for every kind.
func TestSchemaOfEveryKind(t *testing.T) {
	for _, kind := range v1alpha1.Kinds() {
		t.Run(kind, func(t *testing.T) {
			data, err := Schema(kind)
			must(t, err)
			var schema map[string]any
			must(t, json.Unmarshal(data, &schema))
			if schema["additionalProperties"] != false {
				t.Error("unknown fields are allowed")
			}
			described := 0
			walkSchema(schema, func(s map[string]any) {
				if s["description"] != nil {
					described++
				}
				if ref, ok := s["$ref"].(string); ok {
					if _, ok := schema["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")]; !ok {
						t.Errorf("%s leads nowhere", ref)
					}
				}
			})
			if described < 5 {
				t.Errorf("only %d descriptions: the comments were not found", described)
			}
		})
	}
}

func walkSchema(s map[string]any, visit func(map[string]any)) {
	visit(s)
	for _, value := range s {
		switch value := value.(type) {
		case map[string]any:
			walkSchema(value, visit)
		}
	}
}

func TestSchemaOfTheGate(t *testing.T) {
	data, err := Schema(v1alpha1.KindGateConfiguration)
	must(t, err)
	var schema struct {
		Required []string
		Defs     map[string]struct {
			Properties map[string]struct {
				Enum        []string
				Description string
			}
		} `json:"$defs"`
	}
	must(t, json.Unmarshal(data, &schema))
	if got := strings.Join(schema.Required, " "); got != "apiVersion kind listen upstreams identity admin stateDir" {
		t.Errorf("required: %s", got)
	}
	mode := schema.Defs["GateIdentity"].Properties["mode"]
	if strings.Join(mode.Enum, " ") != "FrontProxy Impersonation" || mode.Description != "Mode defaults to FrontProxy." {
		t.Errorf("mode is %+v", mode)
	}
}

// What `config defaults` prints is what the decoder reads: once the required fields are filled, and also with every
// commented field taken in, no field is unknown and none has the wrong shape.
func TestDefaultsDecode(t *testing.T) {
	for _, kind := range v1alpha1.Kinds() {
		t.Run(kind, func(t *testing.T) {
			text, err := Defaults(kind)
			must(t, err)
			for name, text := range map[string]string{"as printed": string(text), "all taken in": uncomment(string(text))} {
				_, err := Load("-", strings.NewReader(text))
				if err == nil {
					continue // nothing is required
				}
				for line := range strings.Lines(err.Error()) {
					for _, bad := range []string{"not valid YAML", "unknown field", "duplicate field", "must be a mapping", "must be a list", "must be a string", "must be a single value"} {
						if strings.Contains(line, bad) {
							t.Errorf("%s: %s", name, line)
						}
					}
				}
			}
		})
	}
}

// uncomment takes the mark off every line that is YAML behind it: no space follows the mark.
func uncomment(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "  ") {
			line = rest
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestDefaultsOfTheGate(t *testing.T) {
	text, err := Defaults(v1alpha1.KindGateConfiguration)
	must(t, err)
	for _, want := range []string{
		"\napiVersion: seakeep.dev/v1alpha1\nkind: GateConfiguration\n",
		"\n# StateDir keeps emergency rules, cached issuer keys and the audit chain over a restart. Must be writable.\nstateDir: \"\" # required\n",
		"\n  mode: \"FrontProxy\"\n",
		"\n  refuseGroups: [\"system:masters\"]\n",
		"\n  maxClients: 2048\n",
		"\ndrainTimeout: \"10s\"\n",
		"\n#limits:\n#-\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("defaults lack %q", want)
		}
	}
	if _, err := Defaults("Gate"); err == nil {
		t.Error("an unknown kind has defaults")
	}
}
