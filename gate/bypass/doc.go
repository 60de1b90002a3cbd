// Package bypass compares what the API servers say they answered with what the gates say they forwarded in the same time,
// and names what went round the gates: by verb and resource from counters alone, by client where the API servers' audit
// logs can be read. It decides on numbers and bytes that its caller brings; it asks nobody.
//
// A limit, a lockdown or a shared read at the gate acts on what comes through the gate. A kubelet or an agent with the API
// server's own address in its kubeconfig is past all of them, and the counters are the one place where that shows.
package bypass
