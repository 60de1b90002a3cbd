// Package lab runs a real Kubernetes control plane as child processes: etcd, kube-apiserver, the controller-manager and
// the scheduler as users run them, with nodes and pods simulated by KWOK. Incidents are replayed on it and everything
// that talks to an API server is tested against it, because what fails in an outage is the real thing's behaviour
// under load, which no fake has.
//
// Everything of a lab is in one folder. Its processes end with the process that owns the lab, by any death
// (PR_SET_PDEATHSIG), and are also recorded with their start times, so that CleanUp can end exactly them later.
package lab
