package lab

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bounder limits the CPU and memory of processes.
type bounder interface {
	// mechanism names how, for reports: numbers measured with different mechanisms are not comparable.
	mechanism() string
	// environment is added to a bounded process's environment.
	environment(Bounds) []string
	// confine is called once for each life of a bounded process, right after its start.
	confine(*Process, *run, Bounds) error
	// release is called when a life has ended.
	release(*Process)
	// groups are the control groups that exist, children first.
	groups() []string
	close()
}

// newBounder picks the best mechanism this machine allows.
func newBounder(log *slog.Logger) bounder {
	if g := newGroupBounder(); g != nil {
		return g
	}
	return &affinityBounder{log: log}
}

// affinityBounder bounds without control groups: whole CPUs by affinity, memory by Go's soft limit and, where that
// does not hold it, by killing at the bound as the kernel would.
type affinityBounder struct {
	log       *slog.Logger
	watchdogs sync.WaitGroup
}

// watchInterval is how often the watchdog reads the resident memory. An API server under a LIST storm was seen to
// grow by more than 1 GB/s, so the bound may be overshot by a tenth of that.
const watchInterval = 100 * time.Millisecond

func (*affinityBounder) mechanism() string {
	return "CPU affinity (whole CPUs), GOMEMLIMIT and a watchdog, as no control group is writable"
}

func (*affinityBounder) environment(b Bounds) []string {
	var env []string
	if b.Memory > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(b.Memory/10*9, 10))
	}
	if b.CPU > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(wholeCPUs(b.CPU)))
	}
	return env
}

func wholeCPUs(cores float64) int { return max(1, int(math.Ceil(cores))) }

func (a *affinityBounder) confine(p *Process, r *run, b Bounds) error {
	if b.CPU > 0 {
		set, err := firstCPUs(wholeCPUs(b.CPU))
		if err != nil {
			return err
		}
		if err := eachThread(r.pid, func(tid int) error { return unix.SchedSetaffinity(tid, set) }); err != nil {
			return fmt.Errorf("setting CPU affinity: %w", err)
		}
	}
	if b.Memory > 0 {
		a.watchdogs.Go(func() { a.watch(p, r, b.Memory) })
	}
	return nil
}

// firstCPUs returns the first n of the CPUs this process may use.
func firstCPUs(n int) (*unix.CPUSet, error) {
	var all, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("reading CPU affinity: %w", err)
	}
	for cpu := 0; n > 0 && cpu < len(all)*strconv.IntSize; cpu++ {
		if all.IsSet(cpu) {
			set.Set(cpu)
			n--
		}
	}
	return &set, nil
}

// watch kills a life whose resident memory exceeds the bound; it ends with the life.
func (a *affinityBounder) watch(p *Process, r *run, bound int64) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-tick.C:
		}
		if rss, _ := readMemory(r.pid); rss > bound {
			a.log.Warn("Memory bound exceeded, killing", "component", p.Name, "residentBytes", rss, "boundBytes", bound)
			r.signal(unix.SIGKILL)
			return
		}
	}
}

func (*affinityBounder) release(*Process) {}
func (*affinityBounder) groups() []string { return nil }
func (a *affinityBounder) close()         { a.watchdogs.Wait() }

// ParseBounds parses "kind=CPU,memory" such as "kube-apiserver=1.5,2Gi"; either value may be empty.
func ParseBounds(s string) (kind string, b Bounds, err error) {
	kind, values, ok := strings.Cut(s, "=")
	if !ok || kind == "" {
		return "", Bounds{}, fmt.Errorf("bound %q is not of the form COMPONENT=CPU,MEMORY", s)
	}
	cpu, memory, _ := strings.Cut(values, ",")
	if cpu != "" {
		if b.CPU, err = strconv.ParseFloat(cpu, 64); err != nil || !(b.CPU > 0) || b.CPU > 4096 {
			return "", Bounds{}, fmt.Errorf("CPU bound of %s must be a number of cores > 0, got %q", kind, cpu)
		}
	}
	if memory != "" {
		if b.Memory, err = parseBytes(memory); err != nil {
			return "", Bounds{}, fmt.Errorf("memory bound of %s: %w", kind, err)
		}
	}
	if b.IsZero() {
		return "", Bounds{}, fmt.Errorf("bound %q limits nothing", s)
	}
	return kind, b, nil
}
