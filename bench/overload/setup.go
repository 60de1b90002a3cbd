package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/run"
)

// Setup implements run.Rig.
func (r *rig) Setup(ctx context.Context) []string {
	o := r.options
	list := func(settings []int) string {
		return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(settings)), ", "), "[]")
	}
	return []string{
		fmt.Sprintf("One kube-apiserver bounded to one core and %d MiB (%s), its audit log on, one etcd, %d nodes and %d pods of about 8 KB; controllers, scheduler and kubelets are stopped before it begins.", o.memory, r.lab.BoundsMechanism(), o.nodes, o.pods),
		"The storm's clients are a process at nice 10, so that they do not starve what is measured; etcd, what stands between and the engineer share what is left of the machine with them. The engineer and the nodes are not nice.",
		"Every turn begins with an API server just started; what stands between is started for its turn and stopped after it, and gates keep what they have learned, as over any restart. The storm goes on until the last request of the engineer's and the last renewal that fell into the time measured have an answer or have been given up.",
		"A storm's ordinary clients are a DaemonSet's: one ServiceAccount. Exempt ones are of system:masters, which priority and fairness and the API server's other limits let through; the gates let them pass (identity.allowMasters). All ask again as soon as they may: LISTs every 5 s, watches every second, writes at once; after 429 when they are told, after other failures as client-go's reflector. LISTs are JSON, accept gzip and count when every object came; watches of all pods begin where reflectors resume, and are dropped when they are answered, 10 clients a connection; everyone else has a connection of his own.",
		fmt.Sprintf("All the while an engineer, cluster-admin by RBAC, reads a ConfigMap %d times a second by the same way; after 429 he comes again as told. What failed or was not answered within %s counts as that. Latency is from when a request was due. And %d nodes renew their leases every %s, each with its own certificate and connection; a renewal that is not made before the next is due is missed, and a node that misses four is called dead.", adminPerSecond, patience, o.nodes, renewEvery),
		"direct is the API server as shipped, with priority and fairness; inflight is direct with --enable-priority-and-fairness=false and --max-requests-inflight and --max-mutating-requests-inflight of " + list(o.inflight) + "; haproxy is " + baseline.HAProxy.Version(ctx) + " in HTTP mode, HTTP/2 on both sides, which says who its clients are with a front proxy's certificate, with maxconn of " + list(o.maxconn) + " and a queue of 10 s; fixed is the gate with a fixed limit of " + list(o.fixed) + " seats; unlimited is the gate without admission; gate is the gate whose limit follows the control plane. All gates have their limits off, so that admission is what is measured, and are told that their API server has one core and its memory.",
		fmt.Sprintf("What is tuned was tried with every setting in the first case of each sort (LISTs, writes, watches; no max-inflight holds a watch, so it has that of the LISTs), and stands in the table with the best: fixed by what it gets done, the others by the engineer's p99 among those that get at least %g %% of the most done.", 100*nearlyTheBest),
		fmt.Sprintf("%d rounds; in each, every contender has a turn of %s, in rotating order, after a warm-up of 2 to 5 s. CPU is user and system time of a process from /proc over the time measured; memory is resident, its peak by the kernel's own mark.", o.Rounds, o.Turn),
		fmt.Sprintf("In the recoveries %d informers LIST and watch the 100 pods of a Deployment each and behave as client-go's reflectors; the API server is killed and started again after a second.", o.informers),
		run.LoadAverage(),
	}
}
