// Package durability is tests only: a gate in a process of its own, killed at any instant, on a disk that is full or
// read-only, and made to say everything it can say. What it acknowledged must hold, and what it holds must not be said.
package durability
