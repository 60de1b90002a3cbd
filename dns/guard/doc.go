// Package guard tells a loss that is news from a loss that is a fault of the messenger. A control plane that is going
// under, or comes back from an old backup, truthfully delivers what it believes: every endpoint not ready
// (kubernetes/kubernetes#77864: "Endpoints dropped to zero for every service"), a list with a third of the objects
// missing, or none. A DNS server that believes it at once takes the whole cluster down with it.
//
// The opposite fault is as bad: a client that hides true deletions keeps writing to a database that is no longer the
// primary (cilium/cilium#48050). So only removals are ever held, and only when they are many, of many services, and at
// the same time, or come from a list rather than an event. Additions, replacements, what was seen to be deleted, and
// any one service alone pass at once. What is held is held for a bounded time, is listed, and goes when a second
// source says the same or an operator says so.
//
// The package is pure: what happened and the time go in, decisions come out.
package guard
