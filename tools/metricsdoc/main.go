// Command metricsdoc writes docs/reference/metrics.md to its standard output: every metric that the source under a
// folder declares, with type, labels, unit and help. It reads the source rather than a running registry, so that a
// metric is documented whatever must be started to register it, and it fails on a declaration it cannot read rather
// than leave it out.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "error: want one argument, the folder of the source")
		os.Exit(2)
	}
	metrics, err := collect(os.Args[1])
	if err == nil {
		err = write(os.Stdout, metrics)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
