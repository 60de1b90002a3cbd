//go:build !race

package attack

// many is how many idle connections one source holds.
const many = 10_000
