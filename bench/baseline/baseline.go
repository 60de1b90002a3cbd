// Package baseline brings the programs that the benchmarks compare with: Debian's own packages, so that anyone gets
// the same ones.
package baseline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Program is a program a benchmark compares with.
type Program struct {
	// Name is the executable's.
	Name string
	// Package is the Debian package that has it.
	Package string
	// VersionArgs make it print its version.
	VersionArgs []string
}

// The programs.
var (
	HAProxy = Program{Name: "haproxy", Package: "haproxy", VersionArgs: []string{"-v"}}
	Nginx   = Program{Name: "nginx", Package: "nginx-light", VersionArgs: []string{"-v"}}
)

// ErrMissing says that a program is missing and cannot be installed by this user; its text says what to do.
var ErrMissing = errors.New("a program to compare with is missing")

// Find is where the program is. Daemons live in folders that not everyone has in the search path.
func (p Program) Find() (string, error) {
	if path, err := exec.LookPath(p.Name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		path := filepath.Join(dir, p.Name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrMissing, p.Name)
}

// Version is the first line the program says of itself.
func (p Program) Version(ctx context.Context) string {
	path, err := p.Find()
	if err != nil {
		return p.Name
	}
	out, err := exec.CommandContext(ctx, path, p.VersionArgs...).CombinedOutput()
	if err != nil {
		return p.Name
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// Install installs what is missing, says so on out, and fails when it may not.
func Install(ctx context.Context, out io.Writer, programs ...Program) error {
	var packages []string
	for _, p := range programs {
		if _, err := p.Find(); err != nil {
			packages = append(packages, p.Package)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	prefix, err := privilege()
	if err != nil {
		return fmt.Errorf("%w; install them with: apt-get install %s", err, strings.Join(packages, " "))
	}
	fmt.Fprintf(out, "bench: installing %s with apt-get, to compare with\n", strings.Join(packages, ", "))
	install := slices.Concat(prefix, []string{"apt-get", "install", "-y", "--no-install-recommends"}, packages)
	if err := run(ctx, out, install); err == nil {
		return nil
	}
	// A machine that never asked has no list of packages.
	if err := run(ctx, out, append(slices.Clone(prefix), "apt-get", "update")); err != nil {
		return fmt.Errorf("%w: %w; install them with: apt-get install %s", ErrMissing, err, strings.Join(packages, " "))
	}
	if err := run(ctx, out, install); err != nil {
		return fmt.Errorf("%w: %w; install them with: apt-get install %s", ErrMissing, err, strings.Join(packages, " "))
	}
	return nil
}

// privilege is what has to stand before a command that installs.
func privilege() ([]string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, fmt.Errorf("%w, and this is no Debian", ErrMissing)
	}
	if os.Geteuid() == 0 {
		return nil, nil
	}
	if sudo, err := exec.LookPath("sudo"); err == nil && exec.Command(sudo, "-n", "true").Run() == nil {
		return []string{sudo, "-n"}, nil
	}
	return nil, fmt.Errorf("%w, and installing needs root, or sudo without a password", ErrMissing)
}

func run(ctx context.Context, out io.Writer, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w", strings.Join(command, " "), err)
	}
	return nil
}
