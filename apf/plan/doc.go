// Package plan decides how API Priority and Fairness withholds seats: what a ballast level's shares must be so that everyone
// else gets a wanted number, when that is worth a write, and how the number moves while its source is silent. It takes
// numbers and a clock and returns decisions; package apf does the reading and writing.
//
// An API server has S seats (--max-requests-inflight plus --max-mutating-requests-inflight) and gives a level with s of D
// shares ceil(S·s/D) of them, its nominal limit (KEP-1040). So shares are relative, and to scale them all changes nothing.
// What can be done is to add shares that nobody uses: a level without a flow schema, that lends nothing and borrows nothing.
package plan
