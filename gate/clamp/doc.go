// Package clamp finds the client whose cost grows with the number of nodes it runs on, before it runs on all of them.
//
// A DaemonSet that LISTs all pods is cheap on the first node and takes the control plane down on the three-hundredth (OpenAI,
// 2024-12-11). While it is rolled out both its sources and what it costs can be seen, so what it will cost everywhere can be
// known when it is on a tenth of the nodes. The decision is pure: observations and their clock in, names and clamps out. Who
// comes from a constant number of sources is not looked at, however much it costs: limits are for that.
//
// A client is a user. A user agent is a claim, and makes nobody another client.
package clamp
