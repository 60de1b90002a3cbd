package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/internal/pki"
)

// Lab is a running control plane. Its methods may be called from any goroutine.
type Lab struct {
	options    Options
	binDir     string
	pki        *PKI
	caPEM      []byte
	supervisor *supervisor
	client     kubernetes.Interface // the lab's own hands, directly to the API server

	members     []member
	apiPorts    []int
	kubeletPort int
	ports       ports
	restored    bool

	probe, blindProbe *http.Client

	mu            sync.Mutex
	issued        map[Identity]*pki.Pair
	server        string // what clients talk to
	serverCA      string
	stopInProcess func() // ends agents that run in this process
	agentsURL     string // the agent runner's metrics
}

// Up starts a control plane and returns when all of its components are ready. Populate then fills it. The components
// are children of this process and end with it. On error nothing is left running.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	l, err := prepare(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = l.Down(context.WithoutCancel(ctx))
		}
	}()
	l.options.Progress("Starting etcd")
	if err := l.startEtcd(ctx); err != nil {
		return nil, err
	}
	l.options.Progress("Starting the API server")
	if err := l.startAPIServers(ctx); err != nil {
		return nil, err
	}
	if err := l.grant(ctx); err != nil {
		return nil, err
	}
	if l.options.FrontDoor != nil {
		l.options.Progress("Putting the front door in place")
		url, caFile, err := l.options.FrontDoor(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("opening the front door: %w", err)
		}
		l.setServer(url, caFile)
	}
	l.options.Progress("Starting the controllers, the scheduler and the simulated kubelets")
	if err := l.startClients(ctx); err != nil {
		return nil, err
	}
	l.supervisor.update(func(s *state) {
		s.Ready, s.Bounds, s.APIServer = true, l.BoundsMechanism(), l.APIServerURL(0)
		s.Server, s.CAFile = l.Server()
		s.Nodes, s.Pods = l.options.Nodes, l.options.Pods
	})
	return l, nil
}

// prepare makes the folder, the PKI and the plan, and starts nothing.
func prepare(o Options) (_ *Lab, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("finding the lab's folder: %w", err)
	}
	binDir, err := FindBinDir(o.BinDir)
	if err != nil {
		return nil, err
	}
	if err := claimFolder(o.Dir); err != nil {
		return nil, err
	}
	l := &Lab{options: o, binDir: binDir, issued: map[Identity]*pki.Pair{}}
	defer func() {
		if err != nil {
			l.ports.release()
		}
	}()
	if o.Restore != "" {
		err = l.thaw(o.Restore)
	} else {
		err = l.fresh()
	}
	if err != nil {
		return nil, err
	}
	if l.caPEM, err = os.ReadFile(l.pki.ClusterCA); err != nil {
		return nil, fmt.Errorf("reading the cluster's authority: %w", err)
	}
	if l.probe, l.blindProbe, err = probeClients(l.pki); err != nil {
		return nil, err
	}
	for range o.APIServers {
		var port int
		if port, err = l.ports.next(); err != nil {
			return nil, err
		}
		l.apiPorts = append(l.apiPorts, port)
	}
	if l.kubeletPort == 0 {
		if l.kubeletPort, err = l.ports.next(); err != nil {
			return nil, err
		}
	}
	if l.client, err = kubernetes.NewForConfig(l.RESTConfig(Masters)); err != nil {
		return nil, fmt.Errorf("making the lab's client: %w", err)
	}
	l.setServer(l.APIServerURL(0), l.pki.ClusterCA)
	l.supervisor = newSupervisor(o)
	return l, nil
}

// ErrRuns is returned when a folder's lab runs already.
var ErrRuns = errors.New("a lab runs already")

// claimFolder makes the lab's folder ready for a new lab: without a running one, and without an old one's data.
func claimFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the lab's folder: %w", err)
	}
	if s, err := readState(dir); err == nil && (s.ownerAlive() && s.Owner.PID != os.Getpid() || len(s.alive()) > 0) {
		return fmt.Errorf("%w in %s, with process id %d", ErrRuns, dir, s.Owner.PID)
	}
	for _, old := range []string{"pki", instance(KindEtcd, 0), instance(KindEtcd, 1), instance(KindEtcd, 2), "logs", stateFile} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			return fmt.Errorf("removing an old lab's data: %w", err)
		}
	}
	return nil
}

// fresh makes a new PKI and plans etcd's members.
func (l *Lab) fresh() (err error) {
	if l.pki, err = makePKI(filepath.Join(l.options.Dir, "pki")); err != nil {
		return err
	}
	for i := range l.options.Etcd {
		m := member{name: instance(KindEtcd, i)}
		for _, port := range []*int{&m.clientPort, &m.peerPort, &m.metricsPort} {
			if *port, err = l.ports.next(); err != nil {
				return err
			}
		}
		l.members = append(l.members, m)
	}
	return nil
}

// startEtcd starts the members together: a member is healthy when the cluster has a leader.
func (l *Lab) startEtcd(ctx context.Context) error {
	specs := make([]ProcessSpec, len(l.members))
	for i := range l.members {
		specs[i] = l.specEtcd(i)
	}
	return l.runAll(ctx, specs)
}

func (l *Lab) startAPIServers(ctx context.Context) error {
	specs := make([]ProcessSpec, len(l.apiPorts))
	for i := range l.apiPorts {
		var err error
		if specs[i], err = l.specAPIServer(i); err != nil {
			return err
		}
	}
	// One after the other the first time: each writes the built-in roles and priority levels when they are absent.
	return l.runAll(ctx, specs)
}

func (l *Lab) startClients(ctx context.Context) error {
	var specs []ProcessSpec
	for _, c := range []struct {
		id   Identity
		kind string
		make func(kubeconfig string, port int) ProcessSpec
	}{
		{controllerManager, KindControllerManager, l.specControllerManager},
		{scheduler, KindScheduler, l.specScheduler},
	} {
		kubeconfig, err := l.componentKubeconfig(c.kind, c.id)
		if err != nil {
			return err
		}
		port, err := l.ports.next()
		if err != nil {
			return err
		}
		specs = append(specs, c.make(kubeconfig, port))
	}
	kubeconfig, err := l.componentKubeconfig(KindKWOK, kubelets)
	if err != nil {
		return err
	}
	kwok, err := l.specKWOK(kubeconfig)
	if err != nil {
		return err
	}
	return l.runAll(ctx, append(specs, kwok))
}

// componentKubeconfig writes a component's kubeconfig, through the front door if there is one.
func (l *Lab) componentKubeconfig(kind string, id Identity) (string, error) {
	file := filepath.Join(l.options.Dir, kind+".kubeconfig")
	server, caFile := l.Server()
	return file, l.WriteKubeconfig(file, id, server, caFile)
}

// Run starts an extra supervised process and returns when it is ready.
func (l *Lab) Run(ctx context.Context, spec ProcessSpec) (*Process, error) {
	p, err := l.supervisor.add(spec)
	if err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// runAll starts processes together and waits until all are ready.
func (l *Lab) runAll(ctx context.Context, specs []ProcessSpec) error {
	errs := make([]error, len(specs))
	var group sync.WaitGroup
	for i, spec := range specs {
		p, err := l.supervisor.add(spec)
		if err != nil {
			errs[i] = err
			break
		}
		group.Go(func() { errs[i] = p.Start(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Process returns the process of that name: kube-apiserver, kube-apiserver-1, etcd, …, or what Run was told.
func (l *Lab) Process(name string) (*Process, bool) {
	processes := l.supervisor.list()
	i := slices.IndexFunc(processes, func(p *Process) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return processes[i], true
}

// Processes returns all processes in the order of their first start.
func (l *Lab) Processes() []*Process { return l.supervisor.list() }

// Dir returns the lab's folder.
func (l *Lab) Dir() string { return l.options.Dir }

// BinDir returns the folder of the control plane's binaries.
func (l *Lab) BinDir() string { return l.binDir }

// PKI returns the lab's certificates and keys.
func (l *Lab) PKI() *PKI { return l.pki }

// CAFile returns the certificate authority that API servers (and a gate with PKI.ServingCert) are verified with.
func (l *Lab) CAFile() string { return l.pki.ClusterCA }

// APIServers returns the number of API servers.
func (l *Lab) APIServers() int { return len(l.apiPorts) }

// APIServerURL returns the URL of API server i, counted from 0, without a front door.
func (l *Lab) APIServerURL(i int) string { return "https://" + loopback(l.apiPorts[i]) }

// Server returns what the cluster's own clients talk to: the front door, or the first API server.
func (l *Lab) Server() (url, caFile string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.server, l.serverCA
}

func (l *Lab) setServer(url, caFile string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server, l.serverCA = url, caFile
}

// BoundsMechanism says how Options.Bounds are enforced on this machine, for reports.
func (l *Lab) BoundsMechanism() string { return l.supervisor.bounder.mechanism() }

// NextPort returns a free loopback port for an extra server, from the range the lab uses.
func (l *Lab) NextPort() (int, error) { return l.ports.next() }

// Down ends every process, those that take part last-started first, and leaves none behind. The folder stays, with
// the logs. It may be called more than once.
func (l *Lab) Down(ctx context.Context) error {
	l.mu.Lock()
	stop := l.stopInProcess
	l.stopInProcess = nil
	l.mu.Unlock()
	if stop != nil {
		stop()
	}
	l.supervisor.mu.Lock()
	down := l.supervisor.down
	l.supervisor.mu.Unlock()
	if down {
		return nil
	}
	err := l.stopAll(ctx)
	l.supervisor.close()
	l.ports.release()
	l.supervisor.update(func(s *state) { s.Ready, s.Populated = false, false })
	l.probe.CloseIdleConnections()
	l.blindProbe.CloseIdleConnections()
	return err
}

// stopAll stops clients together, then the API servers, then etcd: the other way round each would linger.
func (l *Lab) stopAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stage := func(p *Process) int {
		switch p.Kind {
		case KindEtcd:
			return 2
		case KindAPIServer:
			return 1
		}
		return 0
	}
	var errs []error
	for s := range 3 {
		var group sync.WaitGroup
		results := make([]error, len(l.Processes()))
		for i, p := range l.Processes() {
			if stage(p) == s {
				group.Go(func() { results[i] = p.Stop(ctx) })
			}
		}
		group.Wait()
		errs = append(errs, results...)
	}
	return errors.Join(errs...)
}
