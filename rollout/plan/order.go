package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// Order is the order in which a cluster's nodes get the change: by a hash of run and node, so that no two runs hurt the same
// nodes first, and mixed over zones in proportion, so that the first nodes stand for all.
func Order(run string, nodes []Node) []string {
	type placed struct {
		Node
		hash  uint64
		place float64
	}
	zones := map[string][]placed{}
	for _, n := range nodes {
		zones[n.Zone] = append(zones[n.Zone], placed{Node: n, hash: hashOf(run, n.Name)})
	}
	all := make([]placed, 0, len(nodes))
	for zone, members := range zones {
		slices.SortFunc(members, func(a, b placed) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.Name, b.Name))
		})
		// Each zone's nodes are spread evenly over the whole, each zone shifted by its own part of a place.
		shift := float64(hashOf(run, "zone/"+zone)>>11) / (1 << 53)
		for i := range members {
			members[i].place = (float64(i) + shift) / float64(len(members))
		}
		all = append(all, members...)
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.hash, b.hash), cmp.Compare(a.Name, b.Name))
	})
	names := make([]string, len(all))
	for i, n := range all {
		names[i] = n.Name
	}
	return names
}

func hashOf(run, name string) uint64 {
	sum := sha256.Sum256([]byte(run + "\x00" + name))
	return binary.BigEndian.Uint64(sum[:8])
}
