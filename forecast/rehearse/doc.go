// Package rehearse runs the real program of a component against a lab, once for each node, before any node of a real cluster
// has seen it: each with the identity its pod would have on that node. What it costs is measured as on a real cluster, and feeds
// the same forecast.
//
// The program must find the API server by $KUBECONFIG, or by a flag; it is told its node by $NODE_NAME. It runs as whoever
// rehearses, on this machine, and is not confined: rehearse what you would run here.
package rehearse
