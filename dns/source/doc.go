// Package source has where cluster DNS gets its data from: API servers and relays that speak like one, to be followed;
// peers' snapshots and static files, to be fetched whole. Each converts what it reads into the store's own objects at
// once, a page at a time, so that reading a large cluster again costs the memory of a page.
//
// Nothing here retries or decides: that is the keeper's.
package source
