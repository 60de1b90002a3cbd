package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// clockTicks is USER_HZ, the unit of CPU times in /proc: 100 on every Linux architecture Go supports.
const clockTicks = 100

// procStat is what the lab needs of /proc/PID/stat.
type procStat struct {
	state      byte   // R, S, D, Z, …
	startTime  uint64 // clock ticks after boot; with the pid it names one process for good
	cpuSeconds float64
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(data)
}

// parseStat parses the line of /proc/PID/stat. The second field, the command in brackets, may itself hold brackets
// and blanks, so fields are counted from the last closing one.
func parseStat(data []byte) (procStat, error) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return procStat{}, errors.New("process status has no command field")
	}
	fields := strings.Fields(string(data[i+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return procStat{}, fmt.Errorf("process status has %d fields after the command, want ≥ 20", len(fields))
	}
	s := procStat{state: fields[0][0]}
	var numbers [3]uint64
	for n, field := range []int{11, 12, 19} { // utime, stime, starttime
		v, err := strconv.ParseUint(fields[field], 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("parsing process status field %d: %w", field+3, err)
		}
		numbers[n] = v
	}
	s.cpuSeconds = float64(numbers[0]+numbers[1]) / clockTicks
	s.startTime = numbers[2]
	return s, nil
}

// readMemory returns a process's resident memory now and at its highest, in bytes; zeros if it is gone.
func readMemory(pid int) (rss, maxRSS int64) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		if key != "VmRSS" && key != "VmHWM" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		if key == "VmRSS" {
			rss = kib << 10
		} else {
			maxRSS = kib << 10
		}
	}
	return rss, max(rss, maxRSS)
}

// isProcess says whether the process that had this pid and start time still runs: a pid alone may have been given to
// another process since. A zombie does not run.
func isProcess(pid int, startTime uint64) bool {
	s, err := readStat(pid)
	return err == nil && s.startTime == startTime && s.state != 'Z' && s.state != 'X'
}

// bootID tells one boot from the next: start times count from boot.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// eachThread calls set for every thread of the process. Linux keeps niceness and CPU affinity per thread and a new
// thread has its maker's, so it goes on until a pass meets no new one.
func eachThread(pid int, set func(tid int) error) error {
	var seen []int
	for {
		entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
		if err != nil {
			return fmt.Errorf("listing threads: %w", err)
		}
		fresh := false
		for _, entry := range entries {
			tid, err := strconv.Atoi(entry.Name())
			if err != nil || slices.Contains(seen, tid) {
				continue
			}
			fresh = true
			seen = append(seen, tid)
			if err := set(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
}
