package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// SchemaVersion is the version of the format. It counts the packed form of endpoint slices in: a change of that is a
// change of this.
const SchemaVersion = 1

// Meta is what a snapshot says of itself.
type Meta struct {
	// Schema is SchemaVersion of the writer; Encode sets it.
	Schema int `json:"schema"`
	// Cluster is the UID of the namespace kube-system; empty where nobody knew it.
	Cluster string `json:"cluster,omitempty"`
	// Authorities are digests of the certificate authorities that the cluster's API server was verified with; empty where
	// the program had none of its own. They tell clusters apart while no API server answers.
	Authorities []string `json:"authorities,omitempty"`
	// Generation grows with each snapshot of one folder; the sidecar names it.
	Generation uint64 `json:"generation"`
	// Writer is the version of the program.
	Writer string `json:"writer"`
	// Kinds are the kinds the data is complete for, by name. Others are absent, which is not the same as empty.
	Kinds map[string]KindMeta `json:"kinds"`
	// Modified are the zones' times of change in Unix seconds, in the order of store.Zone, so that serial numbers do
	// not run backwards over a restart.
	Modified [store.ZoneCount]int64 `json:"dataChanged"`
	// Confirmed is when all the data was last known to be current.
	Confirmed time.Time `json:"lastConfirmed"`
	// Source is the name of the source the data came from.
	Source string `json:"source,omitempty"`
	// Signed is true when an HMAC follows the records; Encode sets it.
	Signed bool `json:"signed,omitempty"`
}

// KindMeta is what a snapshot says of a kind.
type KindMeta struct {
	// Version is the resource version to watch from; empty where there is none.
	Version string `json:"version,omitempty"`
	// Count is how many objects there are; a snapshot with another number of them is refused.
	Count int `json:"count"`
}

// Errors a caller may want to tell apart. Their text is for operators.
var (
	// ErrForeign: the snapshot is another cluster's.
	ErrForeign = errors.New("the snapshot is of another cluster")
	// ErrFuture: it was written by a newer release.
	ErrFuture = errors.New("the snapshot's schema is newer than this program")
	// ErrUnsigned: a key is configured and the snapshot has no HMAC, or one made with another key.
	ErrUnsigned = errors.New("the snapshot is not signed with the configured key")
	// ErrTooLarge: it exceeds a limit.
	ErrTooLarge = errors.New("the snapshot is larger than allowed")
)

// check refuses a snapshot for what it says of itself.
func (m *Meta) check(cluster string, authorities []string) error {
	if m.Schema > SchemaVersion {
		return fmt.Errorf("%w: %d, not %d", ErrFuture, m.Schema, SchemaVersion)
	}
	if m.Schema < 1 {
		return fmt.Errorf("schema %d is none", m.Schema)
	}
	if cluster != "" && m.Cluster != cluster {
		return fmt.Errorf("%w: its kube-system has UID %q, not %q", ErrForeign, m.Cluster, cluster)
	}
	// One in common is enough: while authorities are exchanged, both are trusted.
	if len(authorities) > 0 && len(m.Authorities) > 0 && !slices.ContainsFunc(authorities, func(a string) bool { return slices.Contains(m.Authorities, a) }) {
		return fmt.Errorf("%w: its API server was verified with another certificate authority; its kube-system has UID %q", ErrForeign, m.Cluster)
	}
	for name, k := range m.Kinds {
		if _, err := store.ParseKind(name); err != nil {
			return fmt.Errorf("its kinds: %w", err)
		}
		if k.Count < 0 {
			return fmt.Errorf("it has %d %s", k.Count, name)
		}
	}
	return nil
}
