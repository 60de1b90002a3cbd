// Package budget reads what workloads declare they need of the API, how large the cluster is that they need it in, and which
// of them API servers call.
//
// A declaration is the annotation seakeep.dev/api-budget on a ServiceAccount, or on a workload, whose pod template says whose
// budget it is. They are read with the gate's own identity, a page at a time every few minutes, and kept on disk: what was read
// last is in force while no API server answers, because that is when a budget is worth something. package limit enforces them.
package budget
