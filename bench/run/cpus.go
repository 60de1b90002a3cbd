package run

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/bench/machine"
)

// CPUs says who runs where: what is measured on one half, what asks it on the other. Both are nil where all share one CPU.
type CPUs struct {
	Server []int
	Load   []int
}

// Halve splits the machine's CPUs and moves this process, and every child it starts from now on, to the load's half.
func Halve() (CPUs, error) {
	cpus, err := machine.CPUs()
	if err != nil || len(cpus) < 2 {
		return CPUs{}, err
	}
	c := CPUs{Server: cpus[:len(cpus)/2], Load: cpus[len(cpus)/2:]}
	runtime.GOMAXPROCS(len(c.Load))
	return c, machine.Pin(os.Getpid(), c.Load)
}

// Pin moves a process to CPUs of one half; nil leaves it where it is.
func (c CPUs) Pin(pid int, half []int) error {
	if half == nil {
		return nil
	}
	return machine.Pin(pid, half)
}

// List writes CPUs as the table's reader knows them: 0,1.
func List(cpus []int) string {
	texts := make([]string, len(cpus))
	for i, cpu := range cpus {
		texts[i] = strconv.Itoa(cpu)
	}
	return strings.Join(texts, ",")
}

// LoadAverage is a sentence for the setup: how busy the machine is at this moment.
func LoadAverage() string {
	busy := ""
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		busy, _, _ = strings.Cut(string(data), " ")
	}
	return "When the measurements began the machine's load average was " + busy + ", from bringing up the control plane and whatever else ran."
}
