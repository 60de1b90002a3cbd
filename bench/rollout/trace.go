package main

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/seakeep/seakeep/rollout/analysis"
)

// trace is what was measured in one live trial, on the cluster with the change and on the one without.
type trace struct {
	Trial string `json:"trial"`
	// Since is when the change was let onto its nodes, Exposed which.
	Since   time.Time `json:"since"`
	Exposed []string  `json:"exposed"`
	// Looks are the readings in order, those of looks with the workload in them.
	Looks []analysis.Record `json:"-"`
}

// write writes a trace: a line for the trial, and one for each reading.
func (t *trace) write(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, t.Trial+".jsonl.gz"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	packed := gzip.NewWriter(file)
	lines := json.NewEncoder(packed)
	if err := lines.Encode(t); err != nil {
		return err
	}
	for _, r := range t.Looks {
		if err := lines.Encode(r); err != nil {
			return err
		}
	}
	return packed.Close()
}

// maxTrace bounds a trace, unpacked.
const maxTrace = 64 << 20

func readTrace(r io.Reader) (*trace, error) {
	packed, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return nil, err
	}
	lines := json.NewDecoder(io.LimitReader(packed, maxTrace))
	var t trace
	if err := lines.Decode(&t); err != nil {
		return nil, err
	}
	for {
		var one analysis.Record
		if err := lines.Decode(&one); errors.Is(err, io.EOF) {
			return &t, nil
		} else if err != nil {
			return nil, err
		}
		t.Looks = append(t.Looks, one)
	}
}

// readTraces reads a folder's, by trial.
func readTraces(dir string) (map[string]*trace, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl.gz"))
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("there are no traces in %s: record them with -record", dir)
	}
	all := map[string]*trace{}
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		t, err := readTrace(file)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("reading the trace %s: %w", name, err)
		}
		if t.Trial != strings.TrimSuffix(filepath.Base(name), ".jsonl.gz") {
			return nil, fmt.Errorf("the trace %s is of the trial %q", name, t.Trial)
		}
		all[t.Trial] = t
	}
	return all, nil
}
