// Package apf makes API Priority and Fairness follow a level that Seakeep knows, for requests that do not come through a gate,
// and jails a client there. It is the one writer of every such object: the ballast level that withholds seats, the edits that
// keep the system levels' own, and the jails. What to write is decided in apf/plan; this package reads and writes.
//
// Nothing of it is needed to serve, and all of it can be undone from what is in the cluster: what Seakeep made carries its
// label, and what it edited carries the original in an annotation. A journal on disk holds the originals too, written before
// the edit, for the case that somebody strips the annotation.
package apf
