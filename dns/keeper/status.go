package keeper

import (
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// State is one word for what the answers are worth. It is a label of metrics and the state of /state.
type State string

// The states.
const (
	// Empty: there is no complete data from anywhere. Not ready; names get SERVFAIL with Extended DNS Error 14.
	Empty State = "empty"
	// Restored: complete data from a snapshot, a peer or a static file; no followed source has been complete yet.
	Restored State = "restored"
	// Live: a source is followed and every kind of it is current.
	Live State = "live"
	// Stale: it was live, and at least one kind has not been confirmed for longer than StaleAfter.
	Stale State = "stale"
	// Guarded: a source is followed, and the guard holds removals that it sent.
	Guarded State = "guarded"
)

// States lists them, for metrics.
var States = []State{Empty, Restored, Live, Stale, Guarded}

// Status is the keeper's state at a moment. It is a value, to be kept and compared.
type Status struct {
	State State `json:"state"`
	// Stale is true when answers are old enough to be marked: in Restored and Stale always, in Guarded when the source
	// is silent too. Extended DNS Error 3, or 19 for names that do not exist, goes with it.
	Stale bool `json:"stale"`
	// Source and Class are those of the data that is served.
	Source string `json:"source,omitempty"`
	Class  Class  `json:"class,omitempty"`
	// Cluster is the UID of the cluster served.
	Cluster string `json:"cluster,omitempty"`
	// Confirmed is when all the data was last known to be current; Age gives the data's age from it. Zero when Empty.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Since is when State was entered.
	Since time.Time `json:"since,omitzero"`
	// Held is how many endpoints and objects the guard keeps that the source no longer has.
	Held int `json:"held,omitempty"`
	// Incomplete are kinds that are wanted and not there: a snapshot was written before they were configured. Their
	// names must get SERVFAIL, not NXDOMAIN.
	Incomplete []string `json:"incomplete,omitempty"`
	// Counts are the objects by kind.
	Counts map[string]int `json:"counts,omitempty"`
	// Versions are the resource versions by kind that the data served is complete up to; a kind that has none is absent.
	Versions map[string]string `json:"versions,omitempty"`
	// SnapshotSaved is when the data on disk was last confirmed there; SnapshotError why the last write failed.
	SnapshotSaved time.Time `json:"snapshotSaved,omitzero"`
	SnapshotError string    `json:"snapshotError,omitempty"`
}

// Ready is true when there is complete data, from whatever source.
func (s Status) Ready() bool { return s.State != Empty }

// Age is how old the data may be: the time since it was last known to be current. 0 when Empty.
func (s Status) Age(now time.Time) time.Duration {
	if s.Confirmed.IsZero() {
		return 0
	}
	return max(now.Sub(s.Confirmed), 0)
}

// Data is what those who answer need of a keeper; *Keeper is it. Safe for concurrent use, without a lock.
type Data interface {
	// Store is the data; its pointer never changes.
	Store() *store.Store
	// Status is the state now; it costs one atomic load.
	Status() Status
}
