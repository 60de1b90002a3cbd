package limit

import (
	"strings"
	"unicode/utf8"
)

// glob is a compiled pattern: * matches any run of characters, ? exactly one. There is no escape: no name of a
// user, a namespace or an object that Kubernetes gives out contains either.
//
// The literal runs between the stars are searched from left to right, each at its first place, which is enough for
// globs: no backtracking, so a long forged header costs length × pattern at most, never more.
type glob struct {
	// head and tail are what the string must begin and end with; exact says there is no star, only head.
	head, tail string
	exact      bool
	// middle are the runs between stars, in order.
	middle []string
}

func compileGlob(pattern string) glob {
	runs := strings.Split(pattern, "*")
	if len(runs) == 1 {
		return glob{head: pattern, exact: true}
	}
	g := glob{head: runs[0], tail: runs[len(runs)-1]}
	for _, run := range runs[1 : len(runs)-1] {
		if run != "" {
			g.middle = append(g.middle, run)
		}
	}
	return g
}

func (g *glob) match(s string) bool {
	n, ok := prefixLen(s, g.head)
	if !ok {
		return false
	}
	s = s[n:]
	if g.exact {
		return s == ""
	}
	for _, run := range g.middle {
		end, ok := find(s, run)
		if !ok {
			return false
		}
		s = s[end:]
	}
	return hasTail(s, g.tail)
}

// prefixLen is how many bytes of s the run, which may hold ?, matches at its beginning.
func prefixLen(s, run string) (int, bool) {
	if strings.IndexByte(run, '?') < 0 {
		return len(run), strings.HasPrefix(s, run)
	}
	at := 0
	for _, want := range run {
		if at == len(s) {
			return 0, false
		}
		got, size := utf8.DecodeRuneInString(s[at:])
		if want != '?' && (want != got || got == utf8.RuneError) {
			return 0, false
		}
		at += size
	}
	return at, true
}

// find returns where the first match of run in s ends.
func find(s, run string) (int, bool) {
	if strings.IndexByte(run, '?') < 0 {
		i := strings.Index(s, run)
		return i + len(run), i >= 0
	}
	for start := range s { // a range over a string visits the starts of characters only
		if n, ok := prefixLen(s[start:], run); ok {
			return start + n, true
		}
	}
	return 0, false
}

// hasTail is true when s, after any characters, ends with what run matches.
func hasTail(s, run string) bool {
	if strings.IndexByte(run, '?') < 0 {
		return strings.HasSuffix(s, run)
	}
	start := len(s)
	for range utf8.RuneCountInString(run) {
		if start == 0 {
			return false
		}
		_, size := utf8.DecodeLastRuneInString(s[:start])
		start -= size
	}
	n, ok := prefixLen(s[start:], run)
	return ok && n == len(s)-start
}

// globs is a list of which any may match; exact names, which are most of a real list, are looked up at once.
type globs struct {
	exact map[string]struct{}
	wild  []glob
}

// compileGlobs returns nil for an empty list, which matches everything.
func compileGlobs(patterns []string) *globs {
	if len(patterns) == 0 {
		return nil
	}
	var gs globs
	for _, p := range patterns {
		if strings.ContainsAny(p, "*?") {
			gs.wild = append(gs.wild, compileGlob(p))
			continue
		}
		if gs.exact == nil {
			gs.exact = make(map[string]struct{}, len(patterns))
		}
		gs.exact[p] = struct{}{}
	}
	return &gs
}

func (gs *globs) match(s string) bool {
	if gs.exact != nil {
		if _, ok := gs.exact[s]; ok {
			return true
		}
	}
	for i := range gs.wild {
		if gs.wild[i].match(s) {
			return true
		}
	}
	return false
}
