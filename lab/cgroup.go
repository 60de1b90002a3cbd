package lab

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// cpuPeriod is the period of the CPU quota, the kernel's default and the kubelet's.
const cpuPeriod = 100 * time.Millisecond

// parseBytes parses a quantity of bytes > 0.
func parseBytes(s string) (int64, error) {
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Value() <= 0 {
		return 0, fmt.Errorf("must be a quantity of bytes > 0 such as 2Gi, got %q", s)
	}
	return q.Value(), nil
}

// hierarchy is where groups with one or more controllers can be made: version 1 has one for each controller.
type hierarchy struct {
	parent      string // folder of the group that the lab's groups are made in
	version     int
	cpu, memory bool // controllers it has
}

// groupBounder bounds with control groups, one for each bounded process, made inside of this process's own group so
// that the bounds of the whole stay in force.
type groupBounder struct {
	hierarchies []hierarchy
	prefix      string // of the groups' names, unique to this lab

	mu   sync.Mutex
	made map[string][]string // group folders by process name
}

// newGroupBounder returns nil where groups with both controllers cannot be made.
func newGroupBounder() *groupBounder {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	g := &groupBounder{prefix: fmt.Sprintf("seakeep-lab-%d-%d", os.Getpid(), time.Now().UnixNano()), made: map[string][]string{}}
	var cpu, memory bool
	for _, h := range findHierarchies(string(mounts), string(own)) {
		if (h.cpu && cpu) || (h.memory && memory) || !h.usable(g.prefix) {
			continue
		}
		cpu, memory = cpu || h.cpu, memory || h.memory
		g.hierarchies = append(g.hierarchies, h)
	}
	if !cpu || !memory {
		return nil
	}
	return g
}

// findHierarchies reads /proc/self/mountinfo and /proc/self/cgroup: version 1 hierarchies with a wanted controller,
// and the version 2 hierarchy at this process's own group and at that group's parent, because a version 2 group that
// holds processes cannot give controllers to children.
func findHierarchies(mounts, own string) []hierarchy {
	paths := map[string]string{} // own group by controller list, "" for version 2
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			paths[parts[1]] = parts[2]
		}
	}
	var found []hierarchy
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, point := fields[3], fields[4]
		within := func(path string) string {
			if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
				return filepath.Join(point, rel)
			}
			return point
		}
		switch kind[0] {
		case "cgroup":
			for controllers, path := range paths {
				names := strings.Split(controllers, ",")
				h := hierarchy{parent: within(path), version: 1, cpu: slices.Contains(names, "cpu"), memory: slices.Contains(names, "memory")}
				if (h.cpu || h.memory) && slices.Contains(strings.Split(kind[2], ","), names[0]) {
					found = append(found, h)
				}
			}
		case "cgroup2":
			path := within(paths[""])
			for _, parent := range []string{path, filepath.Dir(path)} {
				if strings.HasPrefix(parent, point) {
					found = append(found, hierarchy{parent: parent, version: 2, cpu: true, memory: true})
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b hierarchy) int { return cmp.Compare(b.version, a.version) })
	return found
}

// usable tries it out: a group can be made and has the files for its controllers.
func (h hierarchy) usable(name string) bool {
	group := filepath.Join(h.parent, name)
	if err := h.make(group); err != nil {
		return false
	}
	defer removeGroup(group)
	for file := range h.limits(Bounds{CPU: 1, Memory: 1 << 40}) {
		if unix.Access(filepath.Join(group, file), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

func (h hierarchy) make(group string) error {
	if h.version == 2 {
		// Fails where the parent holds processes or the controllers are not ours to give; the caller then looks on.
		if err := os.WriteFile(filepath.Join(h.parent, "cgroup.subtree_control"), []byte("+cpu +memory"), 0o600); err != nil {
			return err
		}
	}
	return os.Mkdir(group, 0o755)
}

// limits yields the files of a group to write, with their content.
func (h hierarchy) limits(b Bounds) map[string]string {
	quota := strconv.FormatInt(int64(b.CPU*float64(cpuPeriod.Microseconds())), 10)
	period := strconv.FormatInt(cpuPeriod.Microseconds(), 10)
	files := map[string]string{}
	if h.cpu && b.CPU > 0 {
		if h.version == 2 {
			files["cpu.max"] = quota + " " + period
		} else {
			files["cpu.cfs_quota_us"] = quota
		}
	}
	if h.memory && b.Memory > 0 {
		name := "memory.limit_in_bytes"
		if h.version == 2 {
			name = "memory.max"
		}
		files[name] = strconv.FormatInt(b.Memory, 10)
	}
	return files
}

func (g *groupBounder) mechanism() string {
	return fmt.Sprintf("control groups, version %d", g.hierarchies[0].version)
}

func (*groupBounder) environment(Bounds) []string { return nil }

// confine makes a fresh group for this life: a group whose last life was killed for memory would start the next one
// with what the kernel still charges to it.
func (g *groupBounder) confine(p *Process, r *run, b Bounds) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.hierarchies {
		group := filepath.Join(h.parent, fmt.Sprintf("%s-%s-%d", g.prefix, p.Name, r.pid))
		if err := h.make(group); err != nil {
			return fmt.Errorf("making control group: %w", err)
		}
		g.made[p.Name] = append(g.made[p.Name], group)
		if h.version == 1 && h.cpu {
			period := strconv.FormatInt(cpuPeriod.Microseconds(), 10)
			if err := os.WriteFile(filepath.Join(group, "cpu.cfs_period_us"), []byte(period), 0o600); err != nil {
				return fmt.Errorf("setting CPU period: %w", err)
			}
		}
		for file, value := range h.limits(b) {
			if err := os.WriteFile(filepath.Join(group, file), []byte(value), 0o600); err != nil {
				return fmt.Errorf("setting limit: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(r.pid)), 0o600); err != nil {
			return fmt.Errorf("entering control group: %w", err)
		}
	}
	return nil
}

func (g *groupBounder) release(p *Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.made[p.Name] = slices.DeleteFunc(g.made[p.Name], removeGroup)
}

func (g *groupBounder) groups() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for _, groups := range g.made {
		all = append(all, groups...)
	}
	return all
}

func (g *groupBounder) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, groups := range g.made {
		g.made[name] = slices.DeleteFunc(groups, removeGroup)
	}
}

// removeGroup removes an empty control group and says whether it is gone. The kernel may take a moment after the
// last process's end, so it is tried for a short while.
func removeGroup(group string) bool {
	if !strings.Contains(filepath.Base(group), "seakeep-lab-") {
		return false // state.json is a file anyone may have edited
	}
	for range 50 {
		err := unix.Rmdir(group)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return true
		}
		if !errors.Is(err, unix.EBUSY) {
			return false
		}
		time.Sleep(2 * time.Millisecond)
	}
	return false
}
