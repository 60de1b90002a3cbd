// Command tally reads the stream of `go test -json` and says, package by package, what happened; its last line is
// "N passed, N failed, N skipped". It fails when anything failed, when anything was skipped, and when nothing ran: a
// test that is skipped silently is a promise nobody checks.
package main

import (
	"fmt"
	"os"
)

func main() {
	result, err := tally(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: reading the stream of go test:", err)
		os.Exit(1)
	}
	if !result.good() {
		os.Exit(1)
	}
}
