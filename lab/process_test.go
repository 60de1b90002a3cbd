package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is also the child processes of these tests; this variable says which one to be.
const roleVariable = "SEAKEEP_LAB_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role, arg, _ := strings.Cut(os.Getenv(roleVariable), "="); role {
	case "":
		os.Exit(m.Run())
	case "sleep": // until told to end
		wait := make(chan os.Signal, 1)
		signal.Notify(wait, syscall.SIGTERM)
		<-wait
	case "stubborn": // an API server whose etcd is gone
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "fail":
		fmt.Println("the reason why")
		os.Exit(1)
	case "grow": // an API server under a storm
		var hoard [][]byte
		for {
			block := make([]byte, 8<<20)
			for i := range block {
				block[i] = 1
			}
			hoard = append(hoard, block)
			_ = hoard
		}
	case "owner": // owns two processes, and is killed
		s := newSupervisor(mustDefaults(arg))
		for _, name := range []string{"a", "b"} {
			p, err := s.add(childSpec(name, "sleep"))
			if err == nil {
				err = p.Start(context.Background())
			}
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		fmt.Println("running")
		select {}
	}
	os.Exit(0)
}

func mustDefaults(dir string) Options {
	o, err := Options{Dir: dir, Backoff: Backoff{Initial: 10 * time.Millisecond}}.withDefaults()
	if err != nil {
		panic(err)
	}
	return o
}

func childSpec(name, role string) ProcessSpec {
	return ProcessSpec{Name: name, Path: os.Args[0], Env: []string{roleVariable + "=" + role}}
}

func newTestSupervisor(t *testing.T) *supervisor {
	t.Helper()
	s := newSupervisor(mustDefaults(t.TempDir()))
	t.Cleanup(s.close)
	return s
}

func startChild(t *testing.T, s *supervisor, spec ProcessSpec) *Process {
	t.Helper()
	p, err := s.add(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually waits for a state of the world that other processes bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := poll(ctx, func(context.Context) (bool, error) { return ok(), nil }); err != nil {
		t.Fatalf("%s: not within a minute", what)
	}
}

func TestStopEndsAProcess(t *testing.T) {
	s := newTestSupervisor(t)
	for _, role := range []string{"sleep", "stubborn"} {
		t.Run(role, func(t *testing.T) {
			p := startChild(t, s, childSpec(role, role))
			pid := p.PID()
			stat, err := readStat(pid)
			if err != nil {
				t.Fatal(err)
			}
			// The stubborn one is killed when the context ends rather than after the whole grace.
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := p.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if p.PID() != 0 || isProcess(pid, stat.startTime) {
				t.Errorf("process %d still runs", pid)
			}
			if p.Restarts() != 0 {
				t.Errorf("stopped process was started again")
			}
		})
	}
}

func TestKilledProcessIsStartedAgain(t *testing.T) {
	s := newTestSupervisor(t)
	spec := childSpec("a", "sleep")
	spec.Restart = true
	p := startChild(t, s, spec)
	first := p.PID()
	p.Kill()
	eventually(t, "restart", func() bool { return p.PID() != 0 && p.PID() != first })
	if got := p.Restarts(); got != 1 {
		t.Errorf("restarts = %d, want 1", got)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.PID(); got != 0 {
		t.Errorf("process %d runs after Stop", got)
	}
}

func TestChangeIsForTheNextStart(t *testing.T) {
	s := newTestSupervisor(t)
	p, err := s.add(childSpec("a", "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"--more", "--other", ""} {
		if extra == "" {
			p.Change(nil, Bounds{})
		} else {
			p.Change([]string{extra}, Bounds{})
		}
		if err := p.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		if _, args, _ := strings.Cut(string(line), "\x00"); strings.Trim(args, "\x00") != extra {
			t.Errorf("want %q after the program's name, got %q", extra, args)
		}
	}
}

func TestStartSaysWhyAProcessDied(t *testing.T) {
	s := newTestSupervisor(t)
	spec := childSpec("a", "fail")
	spec.Ready = func(context.Context) error { return net.ErrClosed }
	p, err := s.add(spec)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the reason why") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error is %v, want one with the exit status and the log's last line", err)
	}
}

func TestNicenessReachesEveryThread(t *testing.T) {
	s := newTestSupervisor(t)
	spec := childSpec("a", "sleep")
	spec.Nice = 10
	p := startChild(t, s, spec)
	err := eachThread(p.PID(), func(tid int) error {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", p.PID(), tid))
		if err != nil {
			return err
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if fields[16] != "10" {
			t.Errorf("thread %d has niceness %s, want 10", tid, fields[16])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMemoryBoundKills(t *testing.T) {
	for name, bounder := range map[string]bounder{
		"best mechanism": newBounder(mustDefaults(t.TempDir()).Log),
		"without groups": &affinityBounder{log: mustDefaults(t.TempDir()).Log},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestSupervisor(t)
			s.bounder = bounder
			spec := childSpec("a", "grow")
			spec.Bounds = Bounds{CPU: 1, Memory: 256 << 20}
			p := startChild(t, s, spec)
			eventually(t, "death at the bound of "+bounder.mechanism(), func() bool { return p.PID() == 0 })
			// The watchdog looks ten times a second, so it may overshoot.
			if _, _, highest := p.Usage(); highest > 2<<30 {
				t.Errorf("process reached %d MiB, want about 256", highest>>20)
			}
			for _, group := range bounder.groups() {
				t.Errorf("control group %s is left", group)
			}
		})
	}
}

func TestCleanUpAfterTheOwnerWasKilled(t *testing.T) {
	dir := t.TempDir()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), roleVariable+"=owner="+dir)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "running\n" {
		t.Fatalf("owner says %q (%v)", line, err)
	}
	s, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(s.alive()); got != 2 {
		t.Fatalf("%d processes are recorded and run, want 2", got)
	}
	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	if _, err := CleanUp(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Processes {
		if isProcess(p.PID, p.StartTime) {
			t.Errorf("process %s (%d) is left", p.Name, p.PID)
		}
	}
}

func TestCleanUpSparesARecycledPID(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), roleVariable+"=sleep")
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	stat, err := readStat(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// As if a recorded process had ended and its number had been given to this one.
	s := newState()
	s.Owner.StartTime++
	s.Processes = []processState{{Name: "etcd", PID: child.Process.Pid, StartTime: stat.startTime - 1}}
	if err := s.write(dir); err != nil {
		t.Fatal(err)
	}
	killed, err := CleanUp(t.Context(), dir)
	if err != nil || len(killed) != 0 {
		t.Errorf("CleanUp killed %v (%v), want nothing", killed, err)
	}
	if !isProcess(child.Process.Pid, stat.startTime) {
		t.Error("a process that only has a recorded number was killed")
	}
}

func TestCleanUpOfNothing(t *testing.T) {
	if killed, err := CleanUp(t.Context(), t.TempDir()); err != nil || killed != nil {
		t.Errorf("CleanUp = %v, %v; want nothing", killed, err)
	}
}

func TestBackoffGrows(t *testing.T) {
	b := Backoff{Initial: time.Second, Max: 5 * time.Second}
	for deaths, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if got := b.after(deaths); got != want {
			t.Errorf("wait after %d deaths is %s, want %s", deaths, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	self, err := readStat(os.Getpid())
	if err != nil || self.startTime == 0 {
		t.Fatalf("own status is %+v (%v)", self, err)
	}
	line := "42 (a) b) (c) S 1 42 42 0 -1 4194560 0 0 0 0 150 50 0 0 20 0 1 0 777 0 0"
	got, err := parseStat([]byte(line))
	if want := (procStat{state: 'S', startTime: 777, cpuSeconds: 2}); err != nil || got != want {
		t.Errorf("parseStat = %+v (%v), want %+v", got, err, want)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) S 1 42 42 0 -1 4194560 0 0 0 0 150 50 0 0 20 0 1 0 777 0 0"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseStat(data); err == nil && s.cpuSeconds < 0 {
			t.Errorf("CPU time is %f", s.cpuSeconds)
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"version":1,"boot":"b","owner":{"name":"owner","pid":2,"startTime":3},"processes":[],"ready":true,"bounds":""}`))
	f.Add([]byte(`{"version":1,"owner":{"pid":-1,"startTime":1}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			return
		}
		// A pid of 0, 1 or less would signal groups or everyone.
		for _, p := range append(s.Processes, s.Owner) {
			if p.PID <= 1 {
				t.Errorf("accepted pid %d", p.PID)
			}
		}
	})
}

func TestFindHierarchies(t *testing.T) {
	tests := map[string]struct {
		mounts, own string
		want        []string
	}{
		"version 1": {
			mounts: "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			own:    "2:cpu,cpuacct:/\n1:memory:/user/me\n",
			want:   []string{"1 /sys/fs/cgroup/cpu true false", "1 /sys/fs/cgroup/memory/user/me false true"},
		},
		"version 2": {
			mounts: "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			own:    "0::/user.slice/app.scope\n",
			want:   []string{"2 /sys/fs/cgroup/user.slice/app.scope true true", "2 /sys/fs/cgroup/user.slice true true"},
		},
		"nothing": {mounts: "nonsense\n", own: "nonsense\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, h := range findHierarchies(tc.mounts, tc.own) {
				got = append(got, fmt.Sprintf("%d %s %t %t", h.version, h.parent, h.cpu, h.memory))
			}
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("hierarchies are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

func TestParseBounds(t *testing.T) {
	tests := map[string]struct {
		in      string
		want    Bounds
		wantErr string
	}{
		"both":        {in: "etcd=1.5,2Gi", want: Bounds{CPU: 1.5, Memory: 2 << 30}},
		"CPU":         {in: "etcd=1", want: Bounds{CPU: 1}},
		"memory":      {in: "etcd=,512Mi", want: Bounds{Memory: 512 << 20}},
		"no kind":     {in: "=1", wantErr: "not of the form"},
		"nothing":     {in: "etcd=,", wantErr: "limits nothing"},
		"negative":    {in: "etcd=-1", wantErr: "> 0"},
		"not finite":  {in: "etcd=NaN", wantErr: "> 0"},
		"no quantity": {in: "etcd=,lots", wantErr: "quantity"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, got, err := ParseBounds(tc.in)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("error is %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("bounds are %+v (%v), want %+v", got, err, tc.want)
			}
		})
	}
}

func FuzzParseBounds(f *testing.F) {
	f.Add("etcd=1.5,2Gi")
	f.Add("=,")
	f.Fuzz(func(t *testing.T, s string) {
		if kind, b, err := ParseBounds(s); err == nil && (kind == "" || b.IsZero() || b.CPU < 0 || b.Memory < 0) {
			t.Errorf("accepted %q as %q %+v", s, kind, b)
		}
	})
}

func TestOptionsRefused(t *testing.T) {
	tests := map[string]struct {
		options Options
		want    string
	}{
		"no folder":     {Options{}, "dir"},
		"two members":   {Options{Dir: "d", Etcd: 2}, "1 or 3"},
		"pods homeless": {Options{Dir: "d", Pods: 1}, "nodes"},
		"too many":      {Options{Dir: "d", Nodes: maxNodes + 1}, "nodes must be"},
		"wrong kind":    {Options{Dir: "d", Bounds: map[string]Bounds{"api": {CPU: 1}}}, `"api"`},
		"wrong arg":     {Options{Dir: "d", ExtraArgs: map[string][]string{"api": nil}}, `"api"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := tc.options.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestFindBinDirNamesWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, KindEtcd), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := FindBinDir(dir)
	if err == nil || !strings.Contains(err.Error(), KindAPIServer) || strings.Contains(err.Error(), "missing etcd") {
		t.Errorf("error is %v, want one that names what is missing", err)
	}
}
