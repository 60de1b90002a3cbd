package v1alpha1

import "net/netip"

// Globs are compared here, not matched (the gate does that): does any string match both, does one match all that the
// other matches. * is any run of characters, ? exactly one.

// globsOverlap is true when some string matches both patterns. It is exact.
func globsOverlap(a, b string) bool {
	x, y := []rune(a), []rune(b)
	// possible[j] is true when what is left of x and y[j:] overlap; filled from the end, one row a character of x.
	possible := make([]bool, len(y)+1)
	next := make([]bool, len(y)+1)
	for i := len(x); i >= 0; i-- {
		for j := len(y); j >= 0; j-- {
			switch {
			case i == len(x) && j == len(y):
				possible[j] = true
			case i < len(x) && x[i] == '*':
				possible[j] = next[j] || j < len(y) && possible[j+1]
			case j < len(y) && y[j] == '*':
				possible[j] = possible[j+1] || i < len(x) && next[j]
			default:
				possible[j] = i < len(x) && j < len(y) && (x[i] == y[j] || x[i] == '?' || y[j] == '?') && next[j+1]
			}
		}
		possible, next = next, possible
	}
	return next[0]
}

// globCovers is true when every string that b matches is matched by a. It may miss a covering, and never claims a
// wrong one: b's wildcards are taken as characters that only a's wildcards of the same or greater reach match.
func globCovers(a, b string) bool {
	x, y := []rune(a), []rune(b)
	covers := make([]bool, len(y)+1)
	next := make([]bool, len(y)+1)
	for i := len(x); i >= 0; i-- {
		for j := len(y); j >= 0; j-- {
			switch {
			case i == len(x):
				covers[j] = j == len(y)
			case x[i] == '*':
				covers[j] = next[j] || j < len(y) && covers[j+1]
			case j == len(y) || y[j] == '*':
				covers[j] = false
			default:
				covers[j] = (x[i] == '?' || x[i] == y[j] && y[j] != '?') && next[j+1]
			}
		}
		covers, next = next, covers
	}
	return next[0]
}

func prefixOf(cidr string) netip.Prefix {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}
