// Package plan says in which order a change comes to clusters and nodes, and what may move next. It is pure: the fleet as it
// was when the run started makes a Plan, which is kept; a cluster as it was just seen makes a Decision.
//
// Nothing here counts from what was done before. What runs the change is read off the pods' revisions each time, so a process
// that was killed and started again decides as if nothing had happened.
package plan
