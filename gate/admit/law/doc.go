// Package law is the control law of the adaptive limit: how many seats, and how many bytes of LISTs, all API servers together
// can take now. Evidence and the time go in, a decision comes out; it knows nothing of HTTP and keeps no time of its own, and
// every case of it can be read as a transcript in testdata.
//
// A limit that follows latency alone has well-known faults, and each has its answer here:
//
//   - It probes for what latency is without load by going down to its floor, and stays there (envoyproxy/envoy#46532). Here
//     nothing is probed for: what a control plane's latency is without load is learned when there is none, and Min is only
//     what is never undercut.
//   - What it takes for latency without load creeps up under load, and the limit with it (envoyproxy/envoy#11579). Here a
//     baseline moves up on a quiet control plane only, slowly, and down at once.
//   - Streams spoil the measure (envoyproxy/envoy#42243). They are no part of the evidence.
//   - It rises without bound while nobody uses it (Netflix/concurrency-limits#134). Here it rises only when it was used.
//   - It falls to nothing when latency has a cause that fewer requests do not take away. Here a fall on latency that does not
//     help is not repeated, and never goes below half of where the limit began.
//
// What makes the difference is the API servers' own word: the processor and the memory they use of what they have. Where they
// say nothing the limit may fall and never rises.
//
// A fall is multiplicative and as deep as the evidence is clear; then nothing more is concluded until it has taken effect
// (the requests that were let in before have ended) and a reading was taken wholly after that. A rise is small, in
// proportion to what is free, and happens on a new reading only.
package law
