// Package machine is what the benchmarks need of the operating system: what the machine is, what a process has used,
// and on which CPUs it runs.
package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, the unit of CPU times in /proc: 100 on every Linux architecture Go supports.
const clockTicks = 100

// Describe says what this machine is, in one line.
func Describe() string {
	model := "unknown CPU"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := ""
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		memory = fmt.Sprintf(", %d GB", (uint64(info.Totalram)*uint64(info.Unit)+1<<29)>>30)
	}
	kernel := "Linux"
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		kernel += " " + unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%d × %s%s, %s, %s", runtime.NumCPU(), model, memory, kernel, runtime.Version())
}

// CPUSeconds is what a process and its children have used since they began: user and system time.
func CPUSeconds(pid int) (float64, error) {
	ticks := uint64(0)
	for _, p := range family(pid) {
		stat, err := readStat(p)
		if err != nil {
			if p == pid {
				return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
			}
			continue // a child that ended meanwhile
		}
		ticks += stat.ticks
	}
	return float64(ticks) / clockTicks, nil
}

// Resident is the memory that a process and its children have in RAM, in bytes.
func Resident(pid int) (int64, error) {
	sum := int64(0)
	for _, p := range family(pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p))
		if err != nil {
			if p == pid {
				return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
			}
			continue
		}
		fields := strings.Fields(string(data))
		if len(fields) < 2 {
			return 0, fmt.Errorf("reading the memory of process %d: unexpected %q", pid, data)
		}
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
		}
		sum += pages * int64(os.Getpagesize())
	}
	return sum, nil
}

// Peak is the most memory that a process, without its children, ever had in RAM, in bytes.
func Peak(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the peak memory of process %d: %w", pid, err)
	}
	_, after, ok := strings.Cut(string(data), "VmHWM:")
	fields := strings.Fields(after)
	if !ok || len(fields) < 2 || fields[1] != "kB" {
		return 0, fmt.Errorf("reading the peak memory of process %d: its status has no VmHWM in kB", pid)
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the peak memory of process %d: %w", pid, err)
	}
	return kib << 10, nil
}

// ForgetPeak lets a process's peak begin anew, from what it has now.
func ForgetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("forgetting the peak memory of process %d: %w", pid, err)
	}
	return nil
}

type stat struct {
	parent int
	ticks  uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat parses /proc/PID/stat. The second field, the command in brackets, may itself hold brackets and blanks, so
// fields are counted from the last closing one.
func parseStat(data []byte) (stat, error) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return stat{}, errors.New("process status has no command field")
	}
	fields := strings.Fields(string(data[i+1:]))
	if len(fields) < 13 {
		return stat{}, fmt.Errorf("process status has %d fields after the command, want ≥ 13", len(fields))
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, fmt.Errorf("parsing the parent of a process: %w", err)
	}
	s := stat{parent: parent}
	for _, field := range []int{11, 12} { // utime, stime
		v, err := strconv.ParseUint(fields[field], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("parsing process status field %d: %w", field+3, err)
		}
		s.ticks += v
	}
	return s, nil
}

// family is a process and its children: nginx works in a child.
func family(pid int) []int {
	members := []int{pid}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return members
	}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(child); err == nil && s.parent == pid {
			members = append(members, child)
		}
	}
	return members
}

// CPUs are the CPUs this process may use.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("reading CPU affinity: %w", err)
	}
	var cpus []int
	for cpu := range len(set) * strconv.IntSize {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// Pin puts a process, all its threads and its children, on the CPUs. Threads made later have their maker's.
func Pin(pid int, cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	for _, p := range family(pid) {
		if err := pinThreads(p, &set); err != nil {
			return fmt.Errorf("pinning process %d: %w", p, err)
		}
	}
	return nil
}

// pinThreads goes on until a pass meets no thread it has not met.
func pinThreads(pid int, set *unix.CPUSet) error {
	var seen []int
	for {
		entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
		if err != nil {
			return err
		}
		fresh := false
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || slices.Contains(seen, tid) {
				continue
			}
			fresh, seen = true, append(seen, tid)
			if err := unix.SchedSetaffinity(tid, set); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
}
