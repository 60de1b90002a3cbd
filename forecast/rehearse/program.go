package rehearse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// niceness of the programs: what they are run against must not lack the processor they take.
	niceness = 10
	// endWithin is how long a program may take to end when it is asked to.
	endWithin = 3 * time.Second
)

// programs are the processes of one rehearsal. They are started from one operating-system thread that lives until the last has
// ended: Linux sends a child its parent-death signal when the thread that made it ends, and Go ends threads when it likes.
type programs struct {
	starts chan start
	group  sync.WaitGroup

	mu    sync.Mutex
	alive map[string]*exec.Cmd
	ended []error
}

type start struct {
	cmd   *exec.Cmd
	reply chan error
}

func newPrograms() *programs {
	p := &programs{starts: make(chan start), alive: map[string]*exec.Cmd{}}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for s := range p.starts {
			s.reply <- s.cmd.Start()
		}
	}()
	return p
}

// run starts one, with what it says in a file.
func (p *programs) run(name string, cmd *exec.Cmd, logFile string) error {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer log.Close() // the child has its own
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	s := start{cmd: cmd, reply: make(chan error, 1)}
	p.starts <- s
	if err := <-s.reply; err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, niceness) // a rehearsal that competes is worse, and not wrong
	p.mu.Lock()
	p.alive[name] = cmd
	p.mu.Unlock()
	p.group.Go(func() {
		err := cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.alive[name] == nil {
			return // it was asked to
		}
		delete(p.alive, name)
		if err == nil {
			err = errors.New("it ended by itself")
		}
		p.ended = append(p.ended, fmt.Errorf("%s: %w; what it said is in %s", name, err, logFile))
	})
	return nil
}

// running is how many run; an error when one has ended.
func (p *programs) running() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ended) > 0 {
		return len(p.alive), fmt.Errorf("%d of the programs ended: %w", len(p.ended), p.ended[0])
	}
	return len(p.alive), nil
}

// end ends all of them, and with each whatever it started.
func (p *programs) end() {
	p.mu.Lock()
	cmds := p.alive
	p.alive = map[string]*exec.Cmd{}
	p.mu.Unlock()
	for _, cmd := range cmds {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	all := make(chan struct{})
	go func() {
		p.group.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(endWithin):
		for _, cmd := range cmds {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		<-all
	}
	close(p.starts)
}
