// Package relay serves what a keeper follows to others, as an API server would: GET, LIST and WATCH of the few kinds that
// DNS needs, and the whole data set as a snapshot. Any number of node-local DNS servers then cost the API server what
// one does, and they go on when it is gone. CoreDNS's own kubernetes plugin can have it as its endpoint.
//
// What is passed on is what the source said, with the source's own resource versions, before the guard: each client
// judges losses for itself, and can change over to another relay or to the API server and go on from the version
// it has. Were the guard's view passed on, a client that changed over would keep what was held for ever.
//
// History is the pure part: a kind's objects and its last changes. Everything a client costs is bounded: lists are
// written object by object, watchers share one ring of changes and are dropped when they fall off its end.
package relay
