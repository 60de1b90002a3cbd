package breakglass

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Reservation says what the process keeps for itself.
type Reservation struct {
	// MemoryLimit is GOMEMLIMIT in bytes, unless the environment sets it.
	MemoryLimit int64
	// Cgroups are folders of the cgroup file system to join; each is made when it does not exist. With cgroup v1 there
	// is one per controller.
	Cgroups []string
	// GoMemLimitSet is true when the environment has GOMEMLIMIT, which wins.
	GoMemLimitSet bool
}

// Reserve takes for the process what nobody else on the host can then take: descriptors, memory, a cgroup of its own,
// and the last place in the queue of the out-of-memory killer. Each is worth having alone, so what cannot be had is said
// and left: the lane serves anyway.
func Reserve(r Reservation, log *slog.Logger) {
	if files, err := raiseFileLimit(); err != nil {
		log.Warn("Keeping the limit of open files", "limit", files, "reason", err)
	} else {
		log.Info("Open files reserved", "limit", files)
	}
	if !r.GoMemLimitSet {
		debug.SetMemoryLimit(r.MemoryLimit)
	}
	// The kubelet's own static pods run at -997: the way in should be there when they are gone.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-998"), 0); err != nil {
		log.Warn("The out-of-memory killer treats the lane like any process", "reason", err)
	}
	if len(r.Cgroups) == 0 {
		log.Info("The lane runs in the cgroup it was started in; --cgroup gives it one of its own")
	}
	for _, dir := range r.Cgroups {
		notes, err := joinCgroup(dir, os.Getpid(), r.MemoryLimit)
		if err != nil {
			log.Warn("The lane is not in the cgroup it should be in", "cgroup", dir, "reason", err)
			continue
		}
		log.Info("Joined the cgroup", "cgroup", dir, "reserved", strings.Join(notes, ", "))
	}
}

// raiseFileLimit raises the soft limit to the hard one and returns it.
func raiseFileLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	was := limit.Cur
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return was, fmt.Errorf("raising the limit of open files to %d: %w", limit.Max, err)
	}
	return limit.Cur, nil
}

// reservations are the files of a cgroup that reserve something, v2 and v1: what the controllers there offer is taken.
func reservations(memory int64) map[string]string {
	return map[string]string{
		"cpu.weight": "10000",                       // v2: a hundred times the default share
		"cpu.shares": "262144",                      // v1: the most there is
		"memory.min": strconv.FormatInt(memory, 10), // v2: never reclaimed
	}
}

// joinCgroup moves a process into a cgroup, made when it does not exist, and returns which reservations were taken.
func joinCgroup(dir string, pid int, memory int64) ([]string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("making it: %w", err)
	}
	// Without the file the folder is not a cgroup, and creating the file would fake one.
	procs, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("joining it: %w", err)
	}
	_, err = procs.WriteString(strconv.Itoa(pid))
	if err = errors.Join(err, procs.Close()); err != nil {
		return nil, fmt.Errorf("joining it: %w", err)
	}
	var notes []string
	for name, value := range reservations(memory) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err != nil {
			continue // the controller is not there: nothing to reserve
		}
		_, err = f.WriteString(value)
		if errors.Join(err, f.Close()) == nil {
			notes = append(notes, name+"="+value)
		}
	}
	return notes, nil
}
