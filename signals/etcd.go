package signals

import (
	"io"
	"time"
)

// What etcd says of itself.
const (
	hasLeader     = "etcd_server_has_leader"
	leaderChanges = "etcd_server_leader_changes_seen_total"
	dbBytes       = "etcd_mvcc_db_total_size_in_bytes"
	quotaBytes    = "etcd_server_quota_backend_bytes"
)

// Etcd is one reading of one member of etcd.
type Etcd struct {
	Read, Started time.Time
	// Leader is whether it knows a leader; without one nothing is written and nothing consistent read.
	Leader bool
	// LeaderChanges it has seen since it started.
	LeaderChanges float64
	// DatabaseBytes is the size of its file, QuotaBytes what it may be; 0 when it does not say.
	DatabaseBytes, QuotaBytes float64
}

// ReadEtcd reads a member's /metrics in the Prometheus text format.
func ReadEtcd(r io.Reader, now time.Time) (Etcd, error) {
	families, err := parse(r, hasLeader, leaderChanges, dbBytes, quotaBytes, startSeconds)
	if err != nil {
		return Etcd{}, err
	}
	if len(families[hasLeader].GetMetric()) == 0 {
		return Etcd{}, &MissingError{Metric: hasLeader}
	}
	return Etcd{
		Read: now, Started: startOf(families),
		Leader:        sum(families[hasLeader], nil) == 1,
		LeaderChanges: sum(families[leaderChanges], nil),
		DatabaseBytes: sum(families[dbBytes], nil),
		QuotaBytes:    max(0, sum(families[quotaBytes], nil)),
	}, nil
}
