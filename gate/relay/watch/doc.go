// Package watch gives many watches of the same thing one watch of the API server.
//
// The Hub keeps a source for every key: path, selectors and media type. A source holds one upstream watch and a ring of the
// newest events, as the bytes the API server wrote, with their versions. What differs between subscribers is no part of the
// key: the version they come from, whether they want bookmarks, how long they stay. A subscriber from a version the ring
// reaches back to is served from the ring; one from an older version gets a watch of its own, and goes over to the ring
// as soon as it knows of everything that was let go there: nothing is lost, told twice or reordered, because versions order
// the events of one resource (KEP-5504) and both ways have the API server's order.
//
// # What subscribers notice of an upstream watch that ends
//
// Nothing, if it can be resumed: it is asked for again from the newest version known, bookmarks included, with growing waits
// in between. A client-go reflector whose watch fails with anything but "connection refused" or 429 lists again, so that
// ending watches while no API server answers would turn an outage into a storm of LISTs. Subscribers are therefore held
// for Patience; then they end cleanly, spread over Spread, because another gate may have an API server that this one has not.
//
// An ERROR event (410 Gone most of all) is passed on as the API server wrote it, to those subscribers it is about: who
// already knows more than the version that was refused is not told, but served from a new watch.
//
// A subscriber that is so slow that an event it has not had was let go ends cleanly, as at the API server, and comes back
// with its version.
package watch
