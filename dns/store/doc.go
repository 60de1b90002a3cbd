// Package store holds what cluster DNS answers from: services, endpoint slices, namespaces, pods and service imports,
// in a schema of our own. Nothing here is an object of CoreDNS or of client-go: those types change between releases
// (Pod.PodIP became PodIPs in CoreDNS 1.15), and this data is written to disk and outlives the program that wrote it.
//
// One goroutine writes (the keeper); any number read. Readers take a View, which costs one atomic load, and look
// things up in it without a lock. Every object is immutable once it is in the store, so what a reader holds stays
// what it was; a change puts a new object in its place. A View shows single changes as they come; a whole new set
// of data (a restored snapshot becoming live) arrives as another View, in one swap, because a half-overwritten set has
// answers that were never true (cilium/cilium#26912).
//
// The data is kept compact, since a DNS server runs on every node and was killed for its memory when the API server
// came back (kubernetes/kubernetes#139117: 233 of 313 pods): the endpoints of a slice are one string without pointers,
// which is also the form on disk, indices hold pointers and hashes but no keys, and a list that brings what is
// already known keeps the known objects.
package store
