package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// Class says what kind of source it is, in the order of trust. It is a label of metrics.
type Class string

// The classes. Disk is the keeper's own snapshot and needs no Source.
const (
	API    Class = "api"
	Relay  Class = "relay"
	Peer   Class = "peer"
	Disk   Class = "disk"
	Static Class = "static"
)

// Source is where data comes from and can be followed: an API server, or a relay that speaks like one. The package
// dns/source has them.
//
// Its methods are called by several goroutines at a time, one for each kind, and return soon after ctx ends, with its
// error. They do not retry: the keeper does, with back-off and jitter, and counts. Objects and events are handed to a
// function the source calls one at a time, in order; it may block, which must hold the source's reading back, not pile
// up memory. When the function returns an error, the source ends and returns that error.
type Source interface {
	// Name tells an operator which one it is: "https://10.0.0.1:6443". Unique among a keeper's sources, and without
	// credentials.
	Name() string
	// Class is API or Relay.
	Class() Class
	// Cluster returns the cluster's UID, which is that of the namespace kube-system, as the source has it now.
	Cluster(ctx context.Context) (string, error)
	// List hands every object of a kind to each, and returns the version they are all of. It reads page by page, or as
	// a stream, and holds no more than a page: the memory of a re-list is what kills DNS servers.
	// It asks for the most recent data there is (resourceVersion unset), not for anything a watch cache may have.
	List(ctx context.Context, kind store.Kind, each func(store.Object) error) (version string, err error)
	// Watch hands every change of a kind since version to each, bookmarks among them, until the stream ends. It calls
	// open once, when the server has accepted the watch. A stream that ends in the ordinary way (the server's timeout)
	// returns nil; the keeper watches again from the last version it was told.
	Watch(ctx context.Context, kind store.Kind, version string, open func(), each func(Event) error) error
}

// Aged is what a Source also is that passes on what another one told it: a relay, whose own source may be gone while it
// answers. Ages add up over a chain of them.
type Aged interface {
	// Age is how long ago the data of a kind was last known to be current, as far as the source has said; 0 when it has
	// said nothing. Safe for concurrent use.
	Age(kind store.Kind) time.Duration
}

// Errors of sources that the keeper acts on; test with errors.Is. All others are retried.
var (
	// ErrGone: the version is too old to watch from (HTTP 410, or an Expired event). The kind is listed again.
	ErrGone = errors.New("the version is gone")
	// ErrTooNew: the source has not reached the version yet ("Too large resource version"). An API server that lags does
	// this for moments; one whose etcd was restored from a backup does it for good.
	ErrTooNew = errors.New("the version is newer than the source")
	// ErrNoKind: the source does not have the kind (ServiceImports without their CRD). The kind is empty and complete.
	ErrNoKind = errors.New("the source does not have this kind")
)

// EventType says what an Event tells.
type EventType uint8

// The types of events.
const (
	// Put: the object is new or changed.
	Put EventType = iota
	// Delete: the object was deleted, or left what the source selects. Object is its last state, or nil.
	Delete
	// Bookmark: nothing changed up to Version.
	Bookmark
)

// Event is one change a source saw. Version is what a later Watch can go on from.
type Event struct {
	Type    EventType
	Key     store.Key
	Object  store.Object
	Version string
}

// Fetcher is a source that has a whole data set and cannot be followed: a peer's snapshot, a static file. It is asked
// again every now and then while nothing better is there.
type Fetcher interface {
	// Name tells an operator which one it is. Unique among a keeper's sources.
	Name() string
	// Class is Peer or Static.
	Class() Class
	// Fetch hands the whole data set to each and returns what it says of itself. An error in the middle throws away
	// what was handed over.
	Fetch(ctx context.Context, each func(store.Object) error) (Origin, error)
}

// Origin says where a data set comes from and how old it is.
type Origin struct {
	// Cluster is the cluster's UID; empty in a static file that somebody wrote.
	Cluster string
	// Versions are the kinds' versions, from which a Source may be watched; empty where there is none.
	Versions [store.KindCount]string
	// Confirmed is when somebody last knew the data to be current.
	Confirmed time.Time
	// Modified are the zones' times of change, in Unix seconds; 0 where unknown.
	Modified [store.ZoneCount]int64
}
