// Package differential asks two DNS servers the same questions and says where their answers differ. It makes the
// Kubernetes objects both servers read (World), the questions (Queries), and the comparison (Compare). All of it is a
// function of a seed, so that a difference found once can be found again.
//
// The comparison is what a drop-in replacement owes its users: the same records in the same sections, the same response
// code, the same flags. TTLs, the order of records, the serial of a SOA and the options of an OPT are left out: they
// are where a server that knows the age of its data must differ from one that does not.
package differential
