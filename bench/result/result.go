// Package result is what every benchmark of the project produces: the same JSON, the same table, the same page. A
// number without its spread, its machine and what it is compared with is an advertisement; here it cannot be written
// down without them.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// Report is one benchmark's outcome: the file out/bench/<part>.json.
type Report struct {
	// Part names the benchmark: make bench-<part>.
	Part string `json:"part"`
	// As names a run of some of its cases, or of more, that stands beside the run of the whole part; "" is the whole.
	As string `json:"as,omitempty"`
	// Subject is what the cases' values are of; the baselines are what it is compared with.
	Subject string `json:"subject"`
	// Machine says on what it was measured, in one line.
	Machine string `json:"machine"`
	// Taken is when, Version is of what.
	Taken   time.Time `json:"taken"`
	Version string    `json:"version"`
	// Setup says how it was measured, a sentence each: a reader must be able to disagree with it.
	Setup []string `json:"setup"`
	Cases []Case   `json:"cases"`
	// Profiles say where the time goes; a missed target has one.
	Profiles []Profile `json:"profiles,omitempty"`
}

// Case is one number.
type Case struct {
	Case   string `json:"case"`
	Metric string `json:"metric"`
	Unit   string `json:"unit"`
	// Value is the subject's median over the runs, Baselines the others', by name.
	Value     float64            `json:"value"`
	Baselines map[string]float64 `json:"baselines"`
	// Target is what the value has to be, in words, and Met whether it is; both are absent for a number without one.
	Target string `json:"target,omitempty"`
	Met    *bool  `json:"met,omitempty"`
	// Judged is the number the target was held to, when it is not the value itself (a difference of paired runs).
	Judged *float64 `json:"judged,omitempty"`
	// Spread is the lowest and the highest run of each, the subject included.
	Spread map[string]Range `json:"spread"`
	// Runs is how many runs the medians are of.
	Runs int `json:"runs"`
	// Note says what a reader might take wrongly.
	Note string `json:"note,omitempty"`
	// Profile names the profile that explains a missed target.
	Profile string `json:"profile,omitempty"`
}

// Range is the lowest and the highest of several runs.
type Range struct {
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// Profile is a summary of where a process spends what it spends.
type Profile struct {
	Name string `json:"name"`
	// File is where the whole profile was written, relative to the report.
	File string `json:"file,omitempty"`
	// Top are the most expensive functions, as `go tool pprof -top` prints them.
	Top []string `json:"top"`
}

// Validate says what keeps a report from being published.
func (r *Report) Validate() error {
	var errs []error
	missing := func(what string, is bool) {
		if is {
			errs = append(errs, fmt.Errorf("%s must not be empty", what))
		}
	}
	missing("part", r.Part == "")
	missing("subject", r.Subject == "")
	missing("machine", r.Machine == "")
	missing("cases", len(r.Cases) == 0)
	for _, c := range r.Cases {
		name := fmt.Sprintf("case %q, metric %q", c.Case, c.Metric)
		missing("case, metric and unit of "+name, c.Case == "" || c.Metric == "" || c.Unit == "")
		if (c.Target == "") != (c.Met == nil) {
			errs = append(errs, fmt.Errorf("%s: target and met belong together", name))
		}
		if _, ok := c.Spread[r.Subject]; !ok {
			errs = append(errs, fmt.Errorf("%s: spread must have the subject, %q", name, r.Subject))
		}
		if c.Met != nil && !*c.Met && !slices.ContainsFunc(r.Profiles, func(p Profile) bool { return p.Name == c.Profile }) {
			errs = append(errs, fmt.Errorf("%s: a missed target needs a profile that says where the time goes, and there is none named %q", name, c.Profile))
		}
	}
	return errors.Join(errs...)
}

// Missed are the cases that did not meet their target.
func (r *Report) Missed() []Case {
	var missed []Case
	for _, c := range r.Cases {
		if c.Met != nil && !*c.Met {
			missed = append(missed, c)
		}
	}
	return missed
}

// name is the report's among all.
func (r *Report) name() string {
	if r.As == "" {
		return r.Part
	}
	return r.Part + "-" + r.As
}

// Write writes the report to <dir>/<part>.json, or <part>-<as>.json, whole or not at all.
func (r *Report) Write(dir string) (file string, err error) {
	if err := r.Validate(); err != nil {
		return "", fmt.Errorf("checking the report of %s: %w", r.Part, err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encoding the report of %s: %w", r.Part, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the folder of reports: %w", err)
	}
	file = filepath.Join(dir, r.name()+".json")
	if err := renameio.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("writing the report of %s: %w", r.Part, err)
	}
	return file, nil
}

// Read reads one report, strictly: a misspelt field would be a number that silently goes missing.
func Read(r io.Reader) (*Report, error) {
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	report := &Report{}
	if err := decoder.Decode(report); err != nil {
		return nil, fmt.Errorf("decoding a report: %w", err)
	}
	if err := report.Validate(); err != nil {
		return nil, fmt.Errorf("checking a report: %w", err)
	}
	return report, nil
}

// ReadDir reads every report of a folder, in the order of their parts.
func ReadDir(dir string) ([]*Report, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("listing reports: %w", err)
	}
	var reports []*Report
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("opening a report: %w", err)
		}
		report, err := Read(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		reports = append(reports, report)
	}
	slices.SortFunc(reports, func(a, b *Report) int { return strings.Compare(a.name(), b.name()) })
	return reports, nil
}
