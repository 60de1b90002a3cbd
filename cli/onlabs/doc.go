// Package onlabs holds no code but tests: `seakeep rollout` as its users run it, on whole labs, with processes that are killed, ways
// that are cut and others that meddle. Most of a rollout is waiting (looks, bakes, leases), so that they run side by side.
package onlabs
