// Package choice decides which API server a request goes to, and learns from what becomes of it. It knows nothing of HTTP:
// requests, outcomes and findings go in with the time, decisions come out, and every case of it can be read as a
// transcript in testdata.
//
// An API server can fail in two ways that need different answers. It may be gone: then nothing may go there. Or it may have
// lost its etcd while it is well otherwise: then it takes every write and every most-recent read and keeps them waiting for
// up to a minute, and still answers from its memory what asks for no more (resourceVersion=0, discovery). A balancer that
// looks at the port, or at /healthz every five seconds, keeps a third of all writes going there. So two circuits are kept
// for each server, one for serving at all and one for its quorum, each of them in, out, or half open.
//
// A circuit goes out by what a probe finds and by what requests meet, whichever is first. It comes back by requests and
// not by time: half open it lets one canary through, two when that went well, four, and is in when enough of them have.
// Two rules keep the cure from being worse than the illness: evidence from requests never takes the last server out
// (whatever fails everywhere is not one server's fault), and silence counts only when nothing else was answered
// meanwhile (whoever is slow and answers is busy, not gone).
package choice
