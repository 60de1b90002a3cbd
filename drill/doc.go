// Package drill is the one scenario engine: a replay of an incident, a drill and a game day are the same thing, a
// timeline of actions against a target, probes that run throughout, a hypothesis and a report.
//
// The engine knows no lab and no gate. What it needs of a target it says in Target and a few optional interfaces; the
// command line joins them. Actions live in action/<action>/, probes in probe/<probe>/; catalog/ is the one list of both.
//
// Everything is recorded here, on the drill's own side and clock, because in the outages worth practising the target
// can no longer be asked what happened.
package drill
