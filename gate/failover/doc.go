// Package failover tests a gate before three API servers of which one fails: each on an etcd member of its own, as
// stacked control planes are, under writers, readers and watchers. It holds tests only.
package failover
