package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
)

// rig is the API server, the DNS servers and what asks them.
type rig struct {
	options   options
	dir       string
	say       run.Say
	lab       *lab.Lab
	kube      kubernetes.Interface
	config    string   // the DNS servers' kubeconfig
	populated int      // services there are
	cpus      run.CPUs // Server: the DNS servers'; Load: the generators', the API server's and etcd's
	// capacity is the saturated rate of each contender, for the surge.
	capacity map[string]float64
}

const dnsUserName = "system:serviceaccount:kube-system:coredns"

// dnsUser is who the DNS servers are to the API server: the lab grants it what kubeadm grants CoreDNS.
var dnsUser = lab.User(dnsUserName, "system:serviceaccounts", "system:serviceaccounts:kube-system")

// newRig brings everything up.
func newRig(ctx context.Context, o options, dir string, say run.Say) (_ *rig, err error) {
	r := &rig{options: o, dir: dir, say: say, config: filepath.Join(dir, "kubeconfig"), capacity: map[string]float64{}}
	if r.options.program, err = filepath.Abs(o.program); err != nil {
		return nil, fmt.Errorf("finding the program under test: %w", err)
	}
	if _, err := os.Stat(r.options.program); err != nil {
		return nil, fmt.Errorf("finding the program under test: %w", err)
	}
	say("bringing up a control plane")
	if r.lab, err = lab.Up(ctx, lab.Options{Dir: filepath.Join(dir, "lab")}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	// From here on nothing works but what is measured.
	for _, kind := range []string{lab.KindKWOK, lab.KindScheduler, lab.KindControllerManager} {
		if p, ok := r.lab.Process(kind); ok {
			if err := p.Stop(ctx); err != nil {
				return nil, err
			}
		}
	}
	config := r.lab.RESTConfig(lab.Masters)
	config.ContentType = runtime.ContentTypeProtobuf // the large cluster is made in half the time
	if r.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	if err := r.lab.WriteKubeconfig(r.config, dnsUser, "", ""); err != nil {
		return nil, err
	}
	if err := r.populate(ctx, o.services); err != nil {
		return nil, err
	}
	return r, r.pin()
}

// Close takes everything down.
func (r *rig) Close() {
	if err := r.lab.Down(context.Background()); err != nil {
		r.say("taking the control plane down: %v", err)
	}
}

// pin gives the DNS servers one half of the CPUs, and what asks them, the API server and etcd the other. One CPU is
// shared by all.
func (r *rig) pin() (err error) {
	if r.cpus, err = run.Halve(); err != nil {
		return err
	}
	for _, name := range []string{lab.KindAPIServer, lab.KindEtcd} {
		p, ok := r.lab.Process(name)
		if !ok {
			return errors.New("the lab has no process " + name)
		}
		if err := r.pinLoad(p); err != nil {
			return err
		}
	}
	return nil
}

// pinLoad puts a process of the lab beside the generators.
func (r *rig) pinLoad(p *lab.Process) error { return r.cpus.Pin(p.PID(), r.cpus.Load) }

// Measure fills the report's cases. The large cluster comes last: it stays large.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	for _, c := range []struct {
		name string
		of   func(context.Context, *result.Report) error
	}{
		{answering, r.measureAnswering}, {surge, r.measureSurge}, {fleet, r.measureFleet}, {relayed, r.measureRelayed}, {scale, r.measureScale},
	} {
		if !r.options.Wanted(c.name) {
			continue
		}
		r.say("%s", c.name)
		if err := c.of(ctx, report); err != nil {
			return fmt.Errorf("measuring %s: %w", c.name, err)
		}
	}
	return nil
}

// Setup says how it is measured.
func (r *rig) Setup(ctx context.Context) []string {
	pinned := "Everything shares one CPU."
	if r.cpus.Load != nil {
		pinned = fmt.Sprintf("DNS servers are pinned to CPU %s; dnsperf and the other generators, the API server and etcd to CPU %s. Only one server is asked at a time.",
			run.List(r.cpus.Server), run.List(r.cpus.Load))
	}
	return []string{
		fmt.Sprintf("One kube-apiserver and one etcd. Services have a cluster IP and one EndpointSlice of 10 endpoints: %d services in all cases but the last, then %d, which are written into etcd as the API server stores them, because the more there are the longer it takes to find a free cluster IP.", r.options.services, r.options.grown),
		pinned,
		"`kubernetes` is stock CoreDNS v1.15: the program under test with that plugin; `kubernetes+cache` has `cache 30` too. Every CoreDNS has errors, ready, prometheus and loadbalance, as kubeadm's Corefile, and pprof. " +
			unbound.Version(ctx) + " serves the zone file that dns/export wrote, as an auth-zone.",
		"Queries are A, of cluster IPs, over UDP, without EDNS, of all services in turn, from 16 sockets. CPU is user and system time of the server from /proc, by query answered.",
		fmt.Sprintf("%d rounds; in each, every contender has a turn of %s at a constant rate, by dnsperf, and a saturated one, in rotating order. The latter is by %d clients that send %d queries at once and the next when they have the answers: dnsperf would be saturated before the server.", r.options.Rounds, r.options.Turn, askers, segments),
		run.LoadAverage(),
	}
}

// port is a free loopback port.
func (r *rig) port() (int, error) { return r.lab.NextPort() }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
