package run

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/bench/result"
)

// Keep writes a profile beside the report.
func (o *Options) Keep(file string, data []byte) error {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return fmt.Errorf("making the folder of profiles: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.Out, file), data, 0o644); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	return nil
}

// Top sums a kept profile up, in so many lines, with Go's own tool, which whoever runs this has.
func (o *Options) Top(ctx context.Context, name, file string, lines int, more ...string) (result.Profile, error) {
	args := append([]string{"tool", "pprof", "-top", "-cum", "-nodecount=" + strconv.Itoa(lines)}, more...)
	out, err := exec.CommandContext(ctx, "go", append(args, filepath.Join(o.Out, file))...).Output()
	if err != nil {
		return result.Profile{}, fmt.Errorf("summing the profile %s up: %w", file, err)
	}
	return result.Profile{Name: name, File: file, Top: strings.Split(strings.TrimSpace(string(out)), "\n")}, nil
}
