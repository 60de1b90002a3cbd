// Package preflight says, before anything is installed, which parts of Seakeep work with a control plane, which only in a
// limited way, which not at all, and why. Gather reads facts and changes nothing; Judge decides on facts alone. What
// could not be found out is unknown, and an answer that hangs on it is unknown too: nothing is guessed.
package preflight
