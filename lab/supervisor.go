package lab

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
)

// supervisor owns the lab's processes.
type supervisor struct {
	dir     string
	log     *slog.Logger
	backoff Backoff
	spawner *spawner
	bounder bounder
	running sync.WaitGroup // the goroutines that wait for processes

	mu        sync.Mutex
	down      bool
	processes []*Process // in order of their first start
	state     state      // what state.json says
}

func newSupervisor(o Options) *supervisor {
	return &supervisor{
		dir: o.Dir, log: o.Log, backoff: o.Backoff,
		spawner: newSpawner(), bounder: newBounder(o.Log), state: newState(),
	}
}

func (s *supervisor) logFile(name string) string { return filepath.Join(s.dir, "logs", name+".log") }

// add makes a process that does not run yet.
func (s *supervisor) add(spec ProcessSpec) (*Process, error) {
	if spec.Name == "" || spec.Name != filepath.Base(spec.Name) {
		return nil, fmt.Errorf("process name %q is no file name", spec.Name)
	}
	if spec.Kind == "" {
		spec.Kind = spec.Name
	}
	p := &Process{Name: spec.Name, Kind: spec.Kind, spec: spec, supervisor: s, changed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	if slices.ContainsFunc(s.processes, func(q *Process) bool { return q.Name == spec.Name }) {
		return nil, fmt.Errorf("the lab already has a process %q", spec.Name)
	}
	s.processes = append(s.processes, p)
	return p, nil
}

// list returns the processes in order of their first start.
func (s *supervisor) list() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.processes)
}

// record and forget keep state.json in step with what runs. A full disk must not stop the lab: PR_SET_PDEATHSIG is
// the other half of leaving nothing behind.
func (s *supervisor) record(p *Process, r *run) {
	s.update(func(st *state) {
		st.Processes = append(st.Processes, processState{Name: p.Name, Kind: p.Kind, PID: r.pid, StartTime: r.startTime})
	})
}

func (s *supervisor) forget(p *Process, r *run) {
	s.bounder.release(p)
	s.update(func(st *state) {
		st.Processes = slices.DeleteFunc(st.Processes, func(ps processState) bool { return ps.PID == r.pid && ps.Name == p.Name })
	})
}

func (s *supervisor) update(change func(*state)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
	s.state.Groups = s.bounder.groups()
	if err := s.state.write(s.dir); err != nil {
		s.log.Error("State was not written", "error", err)
	}
}

// close refuses new processes, ends what is left and waits for the end.
func (s *supervisor) close() {
	s.mu.Lock()
	s.down = true
	processes := slices.Clone(s.processes)
	s.mu.Unlock()
	for _, p := range processes {
		p.mu.Lock()
		p.setWanted(false)
		p.mu.Unlock()
	}
	s.spawner.close()
	s.running.Wait()
	s.bounder.close()
	s.update(func(*state) {})
}
