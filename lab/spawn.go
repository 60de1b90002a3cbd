package lab

import (
	"os/exec"
	"runtime"
	"syscall"
)

// spawner starts processes from one operating-system thread that lives as long as the lab. Linux sends a child its
// parent-death signal when the *thread* that made it ends, and Go ends threads when it likes: without this, a child
// would die at random.
type spawner struct {
	requests chan spawnRequest
	quit     chan struct{}
	done     chan struct{}
}

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan spawnRequest), quit: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	defer close(s.done)
	// Never unlocked: the thread ends with this goroutine, and with the thread every child that is left.
	runtime.LockOSThread()
	for {
		select {
		case req := <-s.requests:
			req.reply <- req.cmd.Start()
		case <-s.quit:
			return
		}
	}
}

// start starts cmd in its own process group, to be killed when this process (or the spawner) ends.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	req := spawnRequest{cmd: cmd, reply: make(chan error, 1)}
	select {
	case s.requests <- req:
		return <-req.reply
	case <-s.done:
		return errDown
	}
}

// close ends the spawner and with it every process it started that still runs.
func (s *spawner) close() {
	close(s.quit)
	<-s.done
}
