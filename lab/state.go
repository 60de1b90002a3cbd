package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// stateFile holds, in the lab's folder, what runs: for CleanUp and for other processes' `lab status`.
const stateFile = "state.json"

// stateVersion is the format's version; another one is refused.
const stateVersion = 1

// state is the content of state.json.
type state struct {
	Version   int            `json:"version"`
	Boot      string         `json:"boot"` // boot the start times belong to
	Owner     processState   `json:"owner"`
	Processes []processState `json:"processes"`
	Groups    []string       `json:"groups,omitempty"` // control groups to remove, children before parents
	Ready     bool           `json:"ready"`            // every component runs
	Populated bool           `json:"populated"`        // and so do all nodes and pods
	Bounds    string         `json:"bounds"`           // mechanism that bounds CPU and memory
	Server    string         `json:"server,omitempty"` // URL of what clients talk to
	CAFile    string         `json:"caFile,omitempty"` // what verifies Server
	APIServer string         `json:"apiServer,omitempty"`
	Nodes     int            `json:"nodes"`
	Pods      int            `json:"pods"`
}

type processState struct {
	Name      string `json:"name"`
	Kind      string `json:"kind,omitempty"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks after boot
}

func newState() state {
	owner := processState{Name: "owner", PID: os.Getpid()}
	if s, err := readStat(owner.PID); err == nil {
		owner.StartTime = s.startTime
	}
	return state{Version: stateVersion, Boot: bootID(), Owner: owner, Processes: []processState{}}
}

func (s *state) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding state: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, stateFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing state: %w", err)
	}
	return nil
}

// parseState parses and checks the content of state.json. It guards what gets killed, so it is strict.
func parseState(data []byte) (state, error) {
	var s state
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return state{}, fmt.Errorf("parsing: %w", err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("version must be %d, got %d", stateVersion, s.Version)
	}
	for _, p := range append(slices.Clone(s.Processes), s.Owner) {
		if p.PID <= 1 || p.StartTime == 0 {
			return state{}, fmt.Errorf("process %q has pid %d and start time %d, which cannot be", p.Name, p.PID, p.StartTime)
		}
	}
	return s, nil
}

func readState(dir string) (state, error) {
	file := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(file)
	if err != nil {
		return state{}, err
	}
	s, err := parseState(data)
	if err != nil {
		return state{}, fmt.Errorf("reading %s: %w", file, err)
	}
	return s, nil
}

// alive returns the recorded processes that still run, the owner left out.
func (s *state) alive() []processState {
	if s.Boot != bootID() {
		return nil
	}
	var alive []processState
	for _, p := range s.Processes {
		if isProcess(p.PID, p.StartTime) {
			alive = append(alive, p)
		}
	}
	return alive
}

// ownerAlive says whether the process that owns the lab runs.
func (s *state) ownerAlive() bool {
	return s.Boot == bootID() && isProcess(s.Owner.PID, s.Owner.StartTime)
}

// CleanUp ends the lab of a folder from outside of its owner: it asks the owner to end, kills it and every recorded
// process that is left, removes control groups, and returns the names of what it had to kill itself. It never
// touches a process that merely has a recorded pid. A folder without a lab is nothing to do.
func CleanUp(ctx context.Context, dir string) (killed []string, err error) {
	s, err := readState(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if s.ownerAlive() && s.Owner.PID != os.Getpid() {
		_ = syscall.Kill(s.Owner.PID, syscall.SIGTERM)
		patience, cancel := context.WithTimeout(ctx, 30*time.Second)
		gone := awaitGone(patience, []processState{s.Owner})
		cancel()
		if !gone && isProcess(s.Owner.PID, s.Owner.StartTime) {
			_ = syscall.Kill(s.Owner.PID, syscall.SIGKILL)
			killed = append(killed, s.Owner.Name)
		}
		if s, err = readState(dir); err != nil { // it may have changed until the owner ended
			return killed, err
		}
	}
	left := s.alive()
	for _, p := range left {
		_ = syscall.Kill(-p.PID, syscall.SIGKILL) // each leads its own group
		killed = append(killed, p.Name)
	}
	patience, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	if !awaitGone(patience, left) {
		return killed, fmt.Errorf("processes survive SIGKILL: %v", s.alive())
	}
	for _, group := range s.Groups {
		removeGroup(group)
	}
	s.Processes, s.Groups, s.Ready, s.Populated = []processState{}, nil, false, false
	return killed, s.write(dir)
}

// awaitGone waits until none of the processes runs; it returns false if the context ends first.
func awaitGone(ctx context.Context, processes []processState) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if !slices.ContainsFunc(processes, func(p processState) bool { return isProcess(p.PID, p.StartTime) }) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
