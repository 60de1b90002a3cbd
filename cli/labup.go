package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

// Marks at the beginning of the supervisor's log lines that `lab up` looks for.
const (
	progressMark = "progress: "
	readyMark    = "ready"
	errorMark    = "error: "
)

// superviseLog is the supervisor's log, in the lab's folder.
const superviseLog = "supervise.log"

// labUpFlags are the flags of `lab up`, handed on to `lab supervise`.
type labUpFlags struct {
	options lab.Options
	bounds  []string
	extra   []string
	dns     bool
	dnsTTL  time.Duration
	caches  int
	shape   string
	timeout time.Duration

	wanted *v1alpha1.ClusterShape
}

func (f *labUpFlags) register(cmd *cobra.Command) {
	o := &f.options
	dirFlag(cmd, &o.Dir)
	flags := cmd.Flags()
	flags.StringVar(&o.BinDir, "bin-dir", "", "`folder` of the control plane's binaries (default: $KUBEBUILDER_ASSETS, then bin/)")
	flags.IntVar(&o.Nodes, "nodes", 20, "simulated nodes")
	flags.StringVar(&f.shape, "shape", "", "ClusterShape `file` of 'seakeep forecast shape': as many nodes, pods, objects and clients; --nodes and --pods are then not used")
	_ = cmd.MarkFlagFilename("shape", "yaml", "yml", "json")
	flags.IntVar(&o.Pods, "pods", 200, "pods, spread over Deployments with Services")
	flags.IntVar(&o.APIServers, "apiservers", 1, "API servers")
	flags.IntVar(&o.Etcd, "etcd", 1, "etcd members: 1 or 3")
	flags.Int64Var(&o.Seed, "seed", 0, "makes what is random about the pods repeatable")
	flags.StringArrayVar(&f.bounds, "bound", nil, "bound a component, as `COMPONENT=CPU,MEMORY`; may be repeated")
	flags.StringArrayVar(&f.extra, "arg", nil, "a further flag of a component, as `COMPONENT=FLAG`; may be repeated")
	flags.BoolVar(&f.dns, "dns", false, "start cluster DNS too")
	flags.DurationVar(&f.dnsTTL, "dns-ttl", 30*time.Second, "how long DNS answers may be kept, in whole seconds")
	flags.IntVar(&f.caches, "node-caches", 0, "node-level DNS caches, with --dns")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long readiness may take")
}

// parse fills in what flags alone cannot say.
func (f *labUpFlags) parse() error {
	f.options.Bounds = map[string]lab.Bounds{}
	for _, s := range f.bounds {
		kind, bounds, err := lab.ParseBounds(s)
		if err != nil {
			return err
		}
		f.options.Bounds[kind] = bounds
	}
	f.options.ExtraArgs = map[string][]string{}
	for _, s := range f.extra {
		kind, arg, ok := strings.Cut(s, "=")
		if !ok || !strings.HasPrefix(arg, "-") {
			return fmt.Errorf("argument %q is not of the form COMPONENT=--FLAG", s)
		}
		f.options.ExtraArgs[kind] = append(f.options.ExtraArgs[kind], arg)
	}
	if f.shape != "" {
		shape, _, err := config.LoadKind[*v1alpha1.ClusterShape](f.shape, nil)
		if err != nil {
			return err
		}
		f.wanted = shape
		f.options.SetShape(shape)
	}
	return f.options.Validate()
}

func newLabUp(env *Env) *cobra.Command {
	f := &labUpFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring up the lab and return when all nodes and pods are ready",
		Long: `Up starts etcd, the API server, the controller-manager, the scheduler and KWOK's simulated kubelets, owned by a
process in the background, and fills the cluster with nodes, Deployments and Services. All servers listen on loopback.`,
		Example: `  seakeep lab up
  seakeep lab up --nodes 500 --pods 5000
  seakeep lab up --shape shape.yaml
  seakeep lab up --apiservers 2 --etcd 3 --bound kube-apiserver=1,2Gi --dns --node-caches 3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.parse(); err != nil {
				return usageError(err, "see 'seakeep lab up --help'")
			}
			return labError(labUp(cmd.Context(), env, f), f.options.Dir)
		},
	}
	f.register(cmd)
	return cmd
}

// labUp starts the supervisor detached and follows its log until the lab is ready.
func labUp(ctx context.Context, env *Env, f *labUpFlags) error {
	if _, err := lab.FindBinDir(f.options.BinDir); err != nil {
		return err
	}
	if _, err := lab.ReadStatus(f.options.Dir); err == nil {
		return fmt.Errorf("%w in %s", lab.ErrRuns, f.options.Dir)
	}
	if err := os.MkdirAll(f.options.Dir, 0o700); err != nil {
		return fmt.Errorf("making the lab's folder: %w", err)
	}
	logFile, err := os.OpenFile(filepath.Join(f.options.Dir, superviseLog), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening the supervisor's log: %w", err)
	}
	defer logFile.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	out, err := os.OpenFile(logFile.Name(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the supervisor's log: %w", err)
	}
	defer out.Close()
	supervisor := exec.Command(self, superviseArgs(env.Args)...)
	supervisor.Stdout, supervisor.Stderr = out, out
	supervisor.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this terminal
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("starting the lab's supervisor: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = supervisor.Wait()
		close(ended)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("the lab was not ready within %s", f.timeout))
	defer cancel()
	if err := followSupervisor(ctx, env, bufio.NewReader(logFile), ended); err != nil {
		_ = supervisor.Process.Signal(syscall.SIGTERM)
		<-ended
		return err
	}
	fmt.Fprintf(env.Stderr, "the lab is ready: 'seakeep lab kubeconfig --dir %s' prints how to reach it\n", f.options.Dir)
	return nil
}

// superviseArgs is this command line with the verb replaced.
func superviseArgs(args []string) []string {
	out := make([]string, 0, len(args))
	replaced := false
	for _, arg := range args {
		if arg == "up" && !replaced {
			arg, replaced = "supervise", true
		}
		out = append(out, arg)
	}
	return out
}

// followSupervisor prints the supervisor's progress until it says that the lab is ready or that it gives up.
func followSupervisor(ctx context.Context, env *Env, log *bufio.Reader, ended <-chan struct{}) error {
	var line strings.Builder
	failure := errors.New("the lab's supervisor ended without a word; see " + superviseLog)
	over := false
	for {
		part, err := log.ReadString('\n')
		line.WriteString(part)
		if err == nil {
			text := strings.TrimSuffix(line.String(), "\n")
			line.Reset()
			if message, ok := strings.CutPrefix(text, progressMark); ok {
				fmt.Fprintln(env.Stderr, message)
			} else if message, ok := strings.CutPrefix(text, errorMark); ok {
				failure = errors.New(message)
			} else if text == readyMark {
				return nil
			}
			continue
		}
		if over {
			return failure // everything it wrote has been read
		}
		select {
		case <-ended:
			over = true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// newLabSupervise owns a lab until it is told to end; `lab up` starts it.
func newLabSupervise(env *Env) *cobra.Command {
	f := &labUpFlags{}
	cmd := &cobra.Command{
		Use:     "supervise",
		Short:   "Own a lab in the foreground until interrupted",
		Example: "  seakeep lab supervise --nodes 20 --pods 200",
		Args:    cobra.NoArgs,
		Hidden:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.parse(); err != nil {
				return usageError(err, "see 'seakeep lab up --help'")
			}
			f.options.Log = env.Log()
			f.options.Progress = func(message string) { fmt.Fprintln(env.Stdout, progressMark+message) }
			return labError(supervise(cmd.Context(), env, f), f.options.Dir)
		},
	}
	f.register(cmd)
	return cmd
}

func supervise(ctx context.Context, env *Env, f *labUpFlags) (err error) {
	starting, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("the lab was not ready within %s", f.timeout))
	defer cancel()
	l, err := lab.Up(starting, f.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	if err := l.StartAgents(starting); err != nil {
		return err
	}
	if f.dns {
		if _, err := l.StartDNS(starting, lab.DNSOptions{TTL: f.dnsTTL, NodeCaches: f.caches}); err != nil {
			return err
		}
	}
	if err := l.Populate(starting); err != nil {
		return err
	}
	if f.wanted != nil {
		left, err := l.BuildShape(starting, f.wanted)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			fmt.Fprintln(env.Stdout, progressMark+"Not built: "+strings.Join(left, "; "))
		}
	}
	fmt.Fprintln(env.Stdout, readyMark)
	<-ctx.Done()
	return nil
}
