// Package recorded answers from an API server's audit log what a gate's limits would have done: each event goes through the
// engine that a gate uses, with the log's clock, and nobody is turned away twice. So a rule can be tried on last week before it is
// in force, and the question "whom would it have hurt?" has an answer that nobody had to be hurt for.
//
// A log has its limits. It does not say how many bytes an answer had, nor when a watch had sent what exists; and a client that is
// turned away comes back, which a log of what it did without that cannot show.
package recorded
