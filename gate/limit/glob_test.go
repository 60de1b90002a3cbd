package limit

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestGlob(t *testing.T) {
	tests := map[string]struct {
		pattern string
		yes, no []string
	}{
		"exact":        {"abc", []string{"abc"}, []string{"", "ab", "abcd", "xabc"}},
		"any":          {"*", []string{"", "a", "a/b c"}, nil},
		"prefix":       {"a*", []string{"a", "abc"}, []string{"", "ba"}},
		"suffix":       {"*a", []string{"a", "ba"}, []string{"", "ab"}},
		"both ends":    {"a*a", []string{"aa", "aba"}, []string{"a", "ab"}},
		"middle":       {"*agent*", []string{"agent", "telemetry-agent/1.0"}, []string{"agen"}},
		"two runs":     {"a*b*c", []string{"abc", "axbxc", "abbc"}, []string{"acb", "ac"}},
		"one":          {"a?c", []string{"abc", "aéc"}, []string{"ac", "abbc"}},
		"one at last":  {"*-?", []string{"w-1", "a-b-2"}, []string{"w-", "w-12"}},
		"one, middle":  {"*a?c*", []string{"xxabcxx", "aac"}, []string{"ac", "axxc"}},
		"only ones":    {"???", []string{"abc"}, []string{"ab", "abcd"}},
		"double stars": {"a**b", []string{"ab", "axb"}, []string{"a"}},
		"empty":        {"", []string{""}, []string{"a"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := compileGlob(tc.pattern)
			for _, s := range tc.yes {
				if !g.match(s) {
					t.Errorf("%q does not match %q", tc.pattern, s)
				}
			}
			for _, s := range tc.no {
				if g.match(s) {
					t.Errorf("%q matches %q", tc.pattern, s)
				}
			}
		})
	}
}

// The compiled form must agree with the definition, written as a regular expression.
func FuzzGlob(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("*?", "")
	f.Add("*a?*a", "aaa")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if !utf8.ValidString(pattern) || !utf8.ValidString(s) || len(pattern) > 100 ||
			strings.ContainsRune(pattern+s, utf8.RuneError) {
			return
		}
		quoted := regexp.QuoteMeta(pattern)
		quoted = strings.ReplaceAll(strings.ReplaceAll(quoted, `\*`, `.*`), `\?`, `.`)
		want := regexp.MustCompile(`(?s)^` + quoted + `$`).MatchString(s)
		g := compileGlob(pattern)
		if got := g.match(s); got != want {
			t.Errorf("glob %q on %q: %t, want %t", pattern, s, got, want)
		}
	})
}
