package upstream

import (
	"fmt"
	"slices"
)

// maxDiscovered is how many API servers one entry may stand for. It bounds metrics' labels and probes; larger control
// planes have five.
const maxDiscovered = 16

// places gives the servers an entry stands for their names: entry-0, entry-1, … An address keeps its name for as long as
// it is there, and a name that is free is given again, so that metrics have a bounded set of them however often
// addresses change.
type places []string // the address in each place; "" where nobody is

// settle returns the places for the addresses that were found, and how many found none.
func (p places) settle(found []string) (next places, left int) {
	next = slices.Clone(p)
	for i, address := range next {
		if !slices.Contains(found, address) {
			next[i] = ""
		}
	}
	for _, address := range slices.Sorted(slices.Values(found)) {
		if address == "" || slices.Contains(next, address) {
			continue
		}
		switch free := slices.Index(next, ""); {
		case free >= 0:
			next[free] = address
		case len(next) < maxDiscovered:
			next = append(next, address)
		default:
			left++
		}
	}
	for len(next) > 0 && next[len(next)-1] == "" {
		next = next[:len(next)-1]
	}
	return next, left
}

// options are those of the servers in the places.
func (p places) options(entry *Options) []Options {
	var all []Options
	for i, address := range p {
		if address == "" {
			continue
		}
		o := *entry
		o.Name, o.URL, o.Discovery = fmt.Sprintf("%s-%d", entry.Name, i), "https://"+address, nil
		all = append(all, o)
	}
	return all
}
