package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopGrace is how long a process asked to end may take. An API server whose etcd is gone lingers for a minute, and
	// the next one could not bind its port.
	stopGrace = 5 * time.Second
	// readyInterval is how often a starting process is asked whether it is ready.
	readyInterval = 50 * time.Millisecond
	// maxLogBytes is the size at which a process's log is set aside when it is started again; one older is kept.
	maxLogBytes = 64 << 20
)

// errDown is returned to who starts a process of a lab that is down.
var errDown = errors.New("the lab is down")

// ProcessSpec describes a supervised process.
type ProcessSpec struct {
	Name string   // unique in the lab; names its log file
	Kind string   // component kind; default: Name
	Path string   // executable
	Args []string // without the executable
	Env  []string // added to this process's own environment
	Nice int      // niceness, 0–19
	// Ready is asked every 50 ms after a start until it returns nil; nil means ready when started. It must honour its
	// context, which ends after two seconds.
	Ready func(ctx context.Context) error
	// Restart says that the process is started again, with back-off, when it ends without having been stopped: like
	// a static pod by the kubelet.
	Restart bool
	Bounds  Bounds
}

// Process is a supervised child process. Its methods may be called from any goroutine.
type Process struct {
	Name string
	Kind string

	spec       ProcessSpec
	supervisor *supervisor
	ops        sync.Mutex // one Start, Stop or Restart at a time

	mu       sync.Mutex
	extra    []string // flags after the spec's own; see Change
	wanted   bool     // it is meant to run
	current  *run     // nil while it does not run
	restarts int
	deaths   int           // in a row, without having lived for Backoff.ResetAfter
	past     usage         // what ended runs used
	changed  chan struct{} // closed and replaced when wanted changes, to end a back-off
}

// run is one life of a process.
type run struct {
	pid       int
	startTime uint64
	began     time.Time
	done      chan struct{} // closed when it has ended and been reaped
	err       error         // how it ended; read after done
}

type usage struct {
	cpuSeconds float64
	maxRSS     int64
}

// PID returns the process id, 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return 0
	}
	return p.current.pid
}

// Restarts says how often the process died by itself and was started again.
func (p *Process) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}

// Usage returns the CPU time used by all of the process's lives, its resident memory now (0 while it does not run)
// and the highest of any life, in bytes.
func (p *Process) Usage() (cpuSeconds float64, rss, maxRSS int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cpuSeconds, maxRSS = p.past.cpuSeconds, p.past.maxRSS
	if p.current == nil {
		return cpuSeconds, 0, maxRSS
	}
	if s, err := readStat(p.current.pid); err == nil && s.startTime == p.current.startTime {
		cpuSeconds += s.cpuSeconds
		var high int64
		rss, high = readMemory(p.current.pid)
		maxRSS = max(maxRSS, high)
	}
	return cpuSeconds, rss, maxRSS
}

// Change is what the process is started with from its next start on: flags after its own, so that they win, and bounds in
// place of those it has. It is how one lab compares an API server with itself.
func (p *Process) Change(extra []string, bounds Bounds) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.extra, p.spec.Bounds = slices.Clone(extra), bounds
}

// LogFile is where the process's output goes.
func (p *Process) LogFile() string { return p.supervisor.logFile(p.Name) }

// Start starts the process and returns when it is ready. One that runs already is only waited for.
func (p *Process) Start(ctx context.Context) error {
	p.ops.Lock()
	defer p.ops.Unlock()
	return p.start(ctx)
}

func (p *Process) start(ctx context.Context) error {
	p.mu.Lock()
	p.setWanted(true)
	r := p.current
	if r == nil {
		var err error
		if r, err = p.spawn(); err != nil {
			p.setWanted(false)
			p.mu.Unlock()
			return fmt.Errorf("starting %s: %w", p.Name, err)
		}
	}
	p.mu.Unlock()
	if err := p.awaitReady(ctx, r); err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	return nil
}

// awaitReady polls Ready until it succeeds, the run ends or the context does.
func (p *Process) awaitReady(ctx context.Context, r *run) error {
	if p.spec.Ready == nil {
		return nil
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := p.spec.Ready(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("it ended (%v); its log %s says: %s", r.err, p.LogFile(), p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("waiting until it is ready: %w (last: %v); its log is %s", context.Cause(ctx), err, p.LogFile())
		case <-time.After(readyInterval):
		}
	}
}

// Stop asks the process to end, and kills it when it has not after five seconds or when the context ends. It is not
// started again until Start.
func (p *Process) Stop(ctx context.Context) error {
	p.ops.Lock()
	defer p.ops.Unlock()
	return p.stop(ctx)
}

func (p *Process) stop(ctx context.Context) error {
	p.mu.Lock()
	p.setWanted(false)
	r := p.current
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	r.signal(syscall.SIGTERM)
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-r.done:
		return nil
	case <-grace.C:
	case <-ctx.Done():
	}
	r.signal(syscall.SIGKILL)
	select {
	case <-r.done:
		return nil
	case <-time.After(stopGrace): // in uninterruptible sleep: nothing more can be done
		return fmt.Errorf("stopping %s: process %d survives SIGKILL", p.Name, r.pid)
	}
}

// Kill kills the process as a crash or the kernel's OOM killer would; it is started again if its spec says so.
func (p *Process) Kill() {
	p.mu.Lock()
	r := p.current
	p.mu.Unlock()
	if r == nil {
		return
	}
	r.signal(syscall.SIGKILL)
	<-r.done
}

// Restart stops and starts the process, and returns when it is ready.
func (p *Process) Restart(ctx context.Context) error {
	p.ops.Lock()
	defer p.ops.Unlock()
	if err := p.stop(ctx); err != nil {
		return err
	}
	return p.start(ctx)
}

// Signal sends a signal to the running process, such as SIGSTOP to hang it.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	r := p.current
	p.mu.Unlock()
	if r == nil {
		return fmt.Errorf("signalling %s: it does not run", p.Name)
	}
	r.signal(sig)
	return nil
}

// signal reaches the whole process group. The run has not been reaped while done is open, so the pid is its own.
func (r *run) signal(sig syscall.Signal) {
	select {
	case <-r.done:
	default:
		_ = syscall.Kill(-r.pid, sig)
	}
}

// setWanted must be called with mu held.
func (p *Process) setWanted(wanted bool) {
	if p.wanted == wanted {
		return
	}
	p.wanted = wanted
	close(p.changed)
	p.changed = make(chan struct{})
}

// spawn starts one life and the goroutine that sees its end. If that could be started but not be confined, the run is
// returned with the error and is being killed. It must be called with mu held.
func (p *Process) spawn() (*run, error) {
	out, err := p.openLog()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(p.spec.Path, slices.Concat(p.spec.Args, p.extra)...)
	cmd.Env = append(os.Environ(), p.spec.Env...)
	cmd.Env = append(cmd.Env, p.supervisor.bounder.environment(p.spec.Bounds)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := p.supervisor.spawner.start(cmd); err != nil {
		return nil, err
	}
	r := &run{pid: cmd.Process.Pid, began: time.Now(), done: make(chan struct{})}
	if s, err := readStat(r.pid); err == nil {
		r.startTime = s.startTime
	}
	p.current = r
	p.supervisor.record(p, r)
	p.supervisor.running.Go(func() { p.reap(cmd, r) })
	if err := p.confine(r); err != nil {
		_ = syscall.Kill(-r.pid, syscall.SIGKILL)
		return r, err
	}
	return r, nil
}

// confine gives a new life its niceness and its bounds.
func (p *Process) confine(r *run) error {
	if p.spec.Nice != 0 {
		err := eachThread(r.pid, func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, p.spec.Nice) })
		if err != nil {
			return fmt.Errorf("setting niceness %d: %w", p.spec.Nice, err)
		}
	}
	if p.spec.Bounds.IsZero() {
		return nil
	}
	if err := p.supervisor.bounder.confine(p, r, p.spec.Bounds); err != nil {
		return fmt.Errorf("bounding CPU and memory: %w", err)
	}
	p.supervisor.update(func(*state) {}) // its control groups
	return nil
}

// reap waits for the end of a life, adds up what it used, and starts the next one if that is wanted.
func (p *Process) reap(cmd *exec.Cmd, r *run) {
	r.err = cmd.Wait()
	if r.err == nil {
		r.err = errors.New("exit status 0")
	}
	p.mu.Lock()
	p.past.cpuSeconds += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if rusage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		p.past.maxRSS = max(p.past.maxRSS, rusage.Maxrss<<10)
	}
	p.current = nil
	close(r.done)
	again := p.wanted && p.spec.Restart
	p.mu.Unlock()
	p.supervisor.forget(p, r)
	if again {
		p.supervisor.log.Warn("Component died", "component", p.Name, "reason", r.err)
		p.revive(r)
	}
}

// revive starts the process again after a back-off, until it starts or is no longer wanted.
func (p *Process) revive(last *run) {
	backoff := p.supervisor.backoff
	for {
		p.mu.Lock()
		if time.Since(last.began) >= backoff.ResetAfter {
			p.deaths = 0
		}
		wait := backoff.after(p.deaths)
		p.deaths++
		changed := p.changed
		p.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
			return // stopped, or stopped and started by hand
		}
		p.mu.Lock()
		if !p.wanted || p.current != nil {
			p.mu.Unlock()
			return
		}
		r, err := p.spawn()
		if err == nil {
			p.restarts++
		}
		p.mu.Unlock()
		if r != nil || errors.Is(err, errDown) {
			return // a run that could not be confined is being killed, and its end brings us here again
		}
		p.supervisor.log.Error("Starting component again did not work", "component", p.Name, "error", err)
	}
}

// openLog opens the log for appending, setting a large one aside.
func (p *Process) openLog() (*os.File, error) {
	name := p.LogFile()
	if info, err := os.Stat(name); err == nil && info.Size() > maxLogBytes {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, fmt.Errorf("setting log aside: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("making log folder: %w", err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	return f, nil
}

// logTail returns the log's last line, for an error message.
func (p *Process) logTail() string {
	f, err := os.Open(p.LogFile())
	if err != nil {
		return "(no log)"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(0, info.Size()-2048), io.SeekStart)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return "(no log)"
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(lines[len(lines)-1])
}
