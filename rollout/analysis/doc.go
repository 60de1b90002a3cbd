// Package analysis measures what a verdict on a rollout rests on: API servers and etcd, by reading their metrics directly; DNS
// and the API, past every cache; the change's pods and the nodes they run on beside those without it; and what the user asks
// Prometheus or a web service. It measures clusters without the change too, because a change is told from the time of day by
// what happens elsewhere meanwhile. What it all means is decided in rollout/verdict.
//
// Nothing here reads through the cluster's own telemetry unless the user's queries do: it may be what is rolled out.
package analysis
