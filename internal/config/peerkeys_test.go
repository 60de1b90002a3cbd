package config

import (
	"strings"
	"testing"
)

func TestParsePeerKeys(t *testing.T) {
	key := strings.Repeat("A", 43) + "="
	for name, tc := range map[string]struct {
		text string
		keys int
		want string
	}{
		"one":             {key, 1, ""},
		"two, a comment":  {"# first encrypts\n" + key + "\n\n" + key + "\n", 2, ""},
		"none":            {"# nothing\n", 0, "at least one key"},
		"a wrong length":  {key + "\nAAAA\n", 0, "line 2"},
		"no base64":       {"hello!\n", 0, "line 1"},
		"far too many":    {strings.Repeat(key+"\n", 9), 0, "at most 8"},
		"carriage return": {key + "\r\n", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			keys, err := ParsePeerKeys([]byte(tc.text))
			if len(keys) != tc.keys || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%d keys and %v", len(keys), err)
			}
		})
	}
}

func FuzzParsePeerKeys(f *testing.F) {
	f.Add([]byte("# a\n" + strings.Repeat("A", 43) + "=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParsePeerKeys(data)
		if err == nil && (len(keys) == 0 || len(keys) > maxPeerKeys) {
			t.Errorf("%d keys", len(keys))
		}
	})
}
