// Package snapshot is a store's data as bytes and as files: what a restart reads while the API server is down, and what
// one instance hands to another.
//
// The bytes are a line of JSON that says what the data is (head -2 shows it), one record for each object, and an end;
// with a key, an HMAC over all of it. The file around them is internal/statefile's: checksummed, replaced in one step,
// three generations. When the data was last confirmed is in a small file beside it, because that changes every
// minute while the data does not.
//
// Whatever is read may come from a torn disk, another cluster, a newer release or somebody who means harm: it is
// refused with the reason, and costs no more memory than its size allows.
package snapshot
