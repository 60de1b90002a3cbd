package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/lab"
)

// The contenders. Those that are tuned stand in the table with the setting that did best.
const (
	gateName      = "gate"      // its limit follows the control plane
	directName    = "direct"    // priority and fairness as shipped
	inflightName  = "inflight"  // no priority and fairness, --max-requests-inflight tuned
	haproxyName   = "haproxy"   // maxconn tuned
	fixedName     = "fixed"     // the gate with the best fixed limit
	unlimitedName = "unlimited" // the gate without admission
	// littleName is the gate of the recovery with little memory, which is told so; it stands in the gate's column.
	littleName = "gate-little"
)

const namespace = "bench"

// way is a way to the API server.
type way struct {
	// name is the contender's, with its setting if it has one.
	name string
	// contender is the column it stands in, setting what is tuned, 0 for who is not.
	contender string
	setting   int
	// flags are the API server's.
	flags []string
	url   string
	gate  *door.Gate // nil for who is none
	// process stands between, nil for nothing.
	process *lab.Process
	// memory is what its API server has, in MiB; 0 is what the API server has in storms. Who has another takes no part in them.
	memory int
}

// openWays makes every way. What stands between is stopped again until its turn: none shall cost another one's.
func (r *rig) openWays(ctx context.Context) error {
	direct := r.lab.APIServerURL(0)
	r.ways = []*way{{name: directName, contender: directName, url: direct}}
	for _, n := range r.options.inflight {
		r.ways = append(r.ways, &way{name: tuned(inflightName, n), contender: inflightName, setting: n, url: direct, flags: []string{
			"--enable-priority-and-fairness=false", fmt.Sprintf("--max-requests-inflight=%d", n), fmt.Sprintf("--max-mutating-requests-inflight=%d", n),
		}})
	}
	for _, n := range r.options.maxconn {
		w := &way{name: tuned(haproxyName, n), contender: haproxyName, setting: n}
		if err := r.openHAProxy(ctx, w); err != nil {
			return err
		}
	}
	for _, n := range r.options.fixed {
		w := &way{name: tuned(fixedName, n), contender: fixedName, setting: n}
		overload := &v1alpha1.GateOverload{Mode: v1alpha1.OverloadEnforce, Limit: v1alpha1.OverloadLimit{Min: n, Max: n, Initial: n}}
		if err := r.openGate(ctx, w, overload); err != nil {
			return err
		}
	}
	if err := r.openGate(ctx, &way{name: unlimitedName, contender: unlimitedName}, &v1alpha1.GateOverload{Mode: v1alpha1.OverloadDisabled}); err != nil {
		return err
	}
	if err := r.openGate(ctx, &way{name: littleName, contender: gateName, memory: r.options.little}, &v1alpha1.GateOverload{Mode: v1alpha1.OverloadEnforce}); err != nil {
		return err
	}
	return r.openGate(ctx, &way{name: gateName, contender: gateName}, &v1alpha1.GateOverload{Mode: v1alpha1.OverloadEnforce})
}

// tuned is also the name of a process, and of its folder.
func tuned(contender string, setting int) string { return contender + "-" + strconv.Itoa(setting) }

// openGate starts a gate whose admission alone limits. It is told what its API server has, as the file of a static pod does
// it with limits: under a quota of one core Go says that there are two.
func (r *rig) openGate(ctx context.Context, w *way, overload *v1alpha1.GateOverload) (err error) {
	overload.CPU = resource.NewQuantity(cores, resource.DecimalSI)
	overload.Memory = resource.NewQuantity(int64(cmp.Or(w.memory, r.options.memory))<<20, resource.BinarySI)
	metrics, err := door.Address(r.lab)
	if err != nil {
		return err
	}
	w.gate, err = door.StartGate(ctx, r.lab, lab.ProcessSpec{Name: w.name, Path: r.options.seakeep}, func(c *v1alpha1.GateConfiguration) {
		c.Listen.MetricsAddress = metrics
		c.Identity.AllowMasters = v1alpha1.Enabled
		c.DefaultLimits = v1alpha1.Disabled
		c.Overload = overload
	})
	if err != nil {
		return err
	}
	w.url = w.gate.URL
	return r.opened(ctx, w)
}

// haproxyConfig queues what is over maxconn, for as long as the engineer waits. Its clients' certificates end at it, so it
// says who they are as the gate does: with a front proxy's certificate.
const haproxyConfig = `global
  nbthread 2
  maxconn 6000
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-server-options ssl-min-ver TLSv1.2
  tune.h2.max-concurrent-streams 250
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout http-request 30s
  timeout queue 10s
  timeout client 1h
  timeout server 1h
frontend clients
  bind %[1]s ssl crt %[2]s ca-file %[3]s verify optional alpn h2,http/1.1
  http-request del-header X-Remote-User
  http-request del-header X-Remote-Group
  http-request del-header X-Remote-Uid
  http-request del-header X-Remote-Extra- -m beg
  http-request set-header X-Remote-User %%[ssl_c_s_dn(cn)] if { ssl_c_used }
  http-request set-header X-Remote-Group %%[ssl_c_s_dn(o)] if { ssl_c_used } { ssl_c_s_dn(o) -m found }
  http-request set-header X-Remote-User system:anonymous unless { ssl_c_used }
  http-request set-header X-Remote-Group system:unauthenticated unless { ssl_c_used }
  default_backend apiservers
backend apiservers
  server apiserver %[4]s ssl verify required ca-file %[3]s crt %[5]s verifyhost localhost sni str(localhost) alpn h2,http/1.1 pool-max-conn -1 maxconn %[6]d
`

func (r *rig) openHAProxy(ctx context.Context, w *way) (err error) {
	w.url, err = door.StartHAProxy(ctx, r.lab, lab.ProcessSpec{Name: w.name}, func(f door.HAProxyFiles) string {
		server := strings.TrimPrefix(r.lab.APIServerURL(0), "https://")
		return fmt.Sprintf(haproxyConfig, f.Address, f.Certificate, r.lab.CAFile(), server, f.FrontProxy, w.setting)
	})
	if err != nil {
		return err
	}
	return r.opened(ctx, w)
}

func (r *rig) opened(ctx context.Context, w *way) error {
	w.process, _ = r.lab.Process(w.name)
	r.ways = append(r.ways, w)
	return w.process.Stop(ctx)
}

// begin starts what stands between, after an API server with the way's flags has been started.
func (r *rig) begin(ctx context.Context, w *way, bounds lab.Bounds) error {
	if err := r.end(); err != nil {
		return err
	}
	r.server.Change(w.flags, bounds)
	if err := r.server.Start(ctx); err != nil {
		return err
	}
	if w.process == nil {
		return nil
	}
	return w.process.Start(ctx)
}

// end stops whatever is between, and the API server, whatever that still works off.
func (r *rig) end() error {
	for _, w := range r.ways {
		if w.process != nil && w.process.PID() != 0 {
			if err := stopNow(w.process); err != nil {
				return err
			}
		}
	}
	return stopNow(r.server)
}

// stopNow gives a process a moment to end by itself.
func stopNow(p *lab.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), ending)
	defer cancel()
	return p.Stop(ctx)
}
