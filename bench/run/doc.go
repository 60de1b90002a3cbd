// Package run is what the benchmarks of all parts do alike: their flags, their turns, the CPUs they give to whom, and
// the way from a measurement to a report. What is measured is each benchmark's own.
package run
