// Package forecast says what a change will cost a control plane on all nodes of a cluster, from what it cost on a few. It is
// pure: observations go in, a prediction with its 95 % interval comes out, and a verdict against the cluster's capacity.
//
// On 2024-12-11 a DaemonSet that LISTed what grows with the cluster was measured on small clusters, where it was cheap, and
// took down the large ones: its cost grew with nodes × objects. So what one more node costs is fitted inside each cluster,
//
//	Y = a + s(M)·n
//
// with n nodes exposed, and over clusters s(M) = k·M^β in the size M of a cluster. Three nodes of the largest cluster say more
// than all of a small one, because there is nothing to extrapolate over M.
//
// What is fitted is demand (seats, requests, bytes, watches, processors, memory), never latency, which grows without bound
// where demand does not. The interval is a prediction interval: it holds what a measurement on all nodes would show, not the
// mean of many. It is as wide as few samples make it, and where the data do not carry a prediction there is none, with what is
// missing.
package forecast
