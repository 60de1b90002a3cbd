package keeper

import (
	"runtime/debug"
	"sync"
)

// sparingPercent is the garbage collector's percentage while a list is read: its pages are garbage as soon as they are
// converted, and by default they may take as much again as all of the data before they are collected. It is the re-list
// after an API server's restart that had DNS servers killed for their memory, 233 of 313 at once
// (kubernetes/kubernetes#139117). The list of 100,000 endpoints takes some tenths of a second of CPU more for it.
const sparingPercent = 25

// sparing is the process's: lists of several keepers may overlap.
var sparing struct {
	sync.Mutex
	lists int
	usual int
}

// spare has garbage collected early until end is called.
func spare() (end func()) {
	sparing.Lock()
	defer sparing.Unlock()
	if sparing.lists++; sparing.lists == 1 {
		sparing.usual = debug.SetGCPercent(sparingPercent)
		if sparing.usual < sparingPercent { // somebody wants less garbage still, or GOMEMLIMIT alone to count
			debug.SetGCPercent(sparing.usual)
		}
	}
	return func() {
		sparing.Lock()
		defer sparing.Unlock()
		if sparing.lists--; sparing.lists == 0 {
			debug.SetGCPercent(sparing.usual)
		}
	}
}
