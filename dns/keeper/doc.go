// Package keeper keeps the data of cluster DNS: it takes it from the best source there is, puts it past the guard into
// the store, and writes it to disk, so that a restart while the API server is down answers at once.
//
// Sources are tried in order and never merged: an answer made of two clusters, or of two times, was never true. One
// source is followed at a time; another one is looked at to corroborate what the guard holds, or when the one followed
// has been gone for a while.
//
// One goroutine, Keeper.Run, owns the store's writing side, the guard and the snapshot; sources run on goroutines of
// their own, which Run starts and waits for.
package keeper
