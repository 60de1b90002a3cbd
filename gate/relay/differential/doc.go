// Package differential shows that a client cannot tell a shared answer from the API server's own. It holds tests only, and
// they run against real control planes: the same random reads and writes by many clients, each answer compared with what
// the API server says of that very version; informers on both ends, over restarts of the gate and of the API server; watches,
// event by event; frames, in every encoding an API server has; the control plane's own programs, whose client libraries are
// as old as it is; controllers made with four minors of controller-runtime; and what breaks in the middle. `make test-skew`
// runs it with each supported minor.
package differential
