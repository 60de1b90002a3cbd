package main

import (
	"errors"
	"flag"
	"io"
	"testing"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		good bool
	}{
		"as shipped":      {nil, true},
		"more writes":     {[]string{"-writes", "100"}, true},
		"hardly any":      {[]string{"-writes", "1"}, false},
		"a short window":  {[]string{"-window", "1s"}, false},
		"no such thing":   {[]string{"-fault", "all"}, false},
		"rounds of none":  {[]string{"-rounds", "0"}, false},
		"a longer window": {[]string{"-window", "20s"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(test.args, func(string) string { return "" }, io.Discard)
			if (err == nil) != test.good {
				t.Errorf("%v: %v", test.args, err)
			}
			if name == "no such thing" && !errors.Is(err, flag.ErrHelp) {
				t.Errorf("a wrong flag: %v", err)
			}
		})
	}
}
