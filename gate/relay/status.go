// Package relay shares reads between clients: whoever asks the same thing at the same time gets one answer of the API
// server.
package relay

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Status is what the relay is doing: the answer to GET /v1/relay at the admin endpoint, shown by `seakeep gate relay`.
// Counts are since Since.
type Status struct {
	Taken time.Time `json:"taken"`
	Since time.Time `json:"since"`
	// Enabled is false when the configuration has no relay; everything else is then empty.
	Enabled bool `json:"enabled"`
	// Memory is what is held for readers, of what may be.
	Memory MemoryStatus `json:"memory"`
	// Total is over all keys, those no longer held included.
	Total Sharing `json:"total"`
	// Keys are the reads shared now or lately, the one that saved most first.
	Keys []KeyStatus `json:"keys"`
	// Watches are the shared watches open upstream, the one with most subscribers first.
	Watches []WatchStatus `json:"watches"`
	// Survive are the LISTs kept on disk.
	Survive []SurviveStatus `json:"survive"`
	// Access is what finding out who may read what took.
	Access AccessStatus `json:"access"`
	// Forwarded counts requests of shared resources that went to the API server untouched, by reason.
	Forwarded map[string]int64 `json:"forwarded"`
}

// MemoryStatus is in bytes.
type MemoryStatus struct {
	Used int64 `json:"usedBytes"`
	Max  int64 `json:"maxBytes"`
}

// Sharing is what sharing came to.
type Sharing struct {
	// Answers were given to clients, of UpstreamReads of the API server.
	Answers       int64 `json:"answers"`
	UpstreamReads int64 `json:"upstreamReads"`
	// HitRatio is the share of answers that needed no read of their own, 0–1. Finish computes it.
	HitRatio float64 `json:"hitRatio"`
	// BytesDelivered went to clients, BytesRead came from the API server: bodies as they were encoded.
	BytesDelivered int64 `json:"bytesDelivered"`
	BytesRead      int64 `json:"bytesRead"`
	// BytesSaved is the difference, 0 at least. Finish computes it.
	BytesSaved int64 `json:"bytesSaved"`
}

// KeyStatus is one key: a read that is shared.
type KeyStatus struct {
	// Resource is "plural" or "plural.group".
	Resource string `json:"resource"`
	Path     string `json:"path"`
	// Query is as sent, without what does not belong to the key.
	Query     string `json:"query,omitempty"`
	MediaType string `json:"mediaType"`
	// Encoding is "identity" or "gzip".
	Encoding string `json:"encoding"`
	// WatchList is true for the initial events of a WATCH, false for a LIST.
	WatchList bool `json:"watchList,omitempty"`
	// Readers are being answered now; Waiting wait for a read that has not begun.
	Readers int `json:"readers"`
	Waiting int `json:"waiting"`
	Sharing
	// AgeSeconds is since the newest complete answer began to be read, Version is its resource version; absent where
	// none is held.
	AgeSeconds *float64 `json:"ageSeconds,omitempty"`
	Version    string   `json:"version,omitempty"`
}

// WatchStatus is one shared watch.
type WatchStatus struct {
	Resource  string `json:"resource"`
	Path      string `json:"path"`
	Query     string `json:"query,omitempty"`
	MediaType string `json:"mediaType"`
	// Filtered is true for a watch of the whole resource whose events are selected here.
	Filtered bool `json:"filtered,omitempty"`
	// Subscribers are served from it now; Dropped were too slow for it.
	Subscribers int   `json:"subscribers"`
	Dropped     int64 `json:"dropped"`
	// Events came from the API server, Delivered went to subscribers.
	Events    int64 `json:"events"`
	Delivered int64 `json:"delivered"`
	// RingEvents and RingBytes are kept for subscribers that come back: of versions Oldest to Newest.
	RingEvents int    `json:"ringEvents"`
	RingBytes  int64  `json:"ringBytes"`
	Oldest     string `json:"oldest,omitempty"`
	Newest     string `json:"newest,omitempty"`
}

// SurviveStatus is one LIST kept on disk.
type SurviveStatus struct {
	Resource string `json:"resource"`
	// AgeSeconds is since it was read; absent where there is none yet.
	AgeSeconds *float64 `json:"ageSeconds,omitempty"`
	Bytes      int64    `json:"bytes"`
	Version    string   `json:"version,omitempty"`
	// Serving is true while every API server is gone and it is what clients get.
	Serving bool `json:"serving"`
}

// AccessStatus counts reviews the API server was asked for, and questions that needed none.
type AccessStatus struct {
	TokenReviews  int64 `json:"tokenReviews"`
	TokensKnown   int64 `json:"tokensKnown"`
	AccessReviews int64 `json:"accessReviews"`
	AccessKnown   int64 `json:"accessKnown"`
	// Errors are reviews that could not be had.
	Errors int64 `json:"errors"`
}

// Finish computes what follows from the counts and puts everything in its order.
func (s *Status) Finish() {
	s.Total.finish()
	for i := range s.Keys {
		s.Keys[i].finish()
	}
	slices.SortStableFunc(s.Keys, func(a, b KeyStatus) int {
		return cmp.Or(cmp.Compare(b.BytesSaved, a.BytesSaved), strings.Compare(a.Path, b.Path), strings.Compare(a.Query, b.Query),
			strings.Compare(a.MediaType, b.MediaType), strings.Compare(a.Encoding, b.Encoding))
	})
	slices.SortStableFunc(s.Watches, func(a, b WatchStatus) int {
		return cmp.Or(cmp.Compare(b.Subscribers, a.Subscribers), strings.Compare(a.Path, b.Path), strings.Compare(a.Query, b.Query),
			strings.Compare(a.MediaType, b.MediaType))
	})
	slices.SortStableFunc(s.Survive, func(a, b SurviveStatus) int { return strings.Compare(a.Resource, b.Resource) })
}

func (s *Sharing) finish() {
	s.HitRatio = 0
	if s.Answers > 0 {
		s.HitRatio = max(0, 1-float64(s.UpstreamReads)/float64(s.Answers))
	}
	// A read whose readers all went away was paid for and delivered to nobody.
	s.BytesSaved = max(0, s.BytesDelivered-s.BytesRead)
}
