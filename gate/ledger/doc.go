// Package ledger knows who costs what, live, in bounded memory. Unbounded labels are why Kubernetes took the client's
// name out of its own metrics (kubernetes#87669, #106216); on 2024-12-11 naming the client that did it took minutes
// that were not there. So the ledger is a heavy-hitter summary (Space-Saving), which keeps the clients that cost most and
// states for every number how much it may have missed.
//
// A client is user × user agent × verb × resource. A user agent is a claim and a user is not, so the user is part of the
// key: a rotated user agent spreads one user's cost over several lines but cannot hide it under another's name.
//
// # The error
//
// The cost of a request is one number (cost below): seat-seconds, plus a floor per request and a share of its bytes, so
// that none of the three can be heavy without being kept. The table holds a fixed number of entries; a client not in it
// takes the place of the cheapest and inherits, as its possible error, the cost that place had. So for each entry the
// true cost lies between what is stated and that plus MaybeMissed, and no client outside the table costs more than
// Snapshot.Floor. Because the cost counts each request and each byte at a fixed weight, a missed cost also bounds the
// missed seat-seconds, requests and bytes.
//
// In a running gate the cost decays (half is forgotten in Memory), so that a client of yesterday makes room for one of
// now; the bounds then hold for the decayed cost. In an audit file nothing decays and they hold for the whole file.
package ledger
