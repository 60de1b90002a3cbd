//go:build race

package attack

// many is how many idle connections one source holds. Under the race detector a handshake costs ten times as much, and
// the first of 10,000 connections would be closed as idle before the last is open.
const many = 2000
