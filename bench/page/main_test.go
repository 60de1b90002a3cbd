package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/seakeep/seakeep/bench/result"
)

func TestPageMatchesItsReports(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "page.md")
	args := []string{"-reports", filepath.Join(dir, "reports"), "-page", page}
	check := append([]string{"-check"}, args...)
	if err := run(args, io.Discard); err == nil {
		t.Error("a page of no report was written")
	}
	report := &result.Report{Part: "part", Subject: "ours", Machine: "a machine", Cases: []result.Case{
		result.Runs{"ours": {1, 2, 3}}.Case("case", "metric", "ms", "ours"),
	}}
	if _, err := report.Write(filepath.Join(dir, "reports")); err != nil {
		t.Fatal(err)
	}
	if err := run(check, io.Discard); err == nil {
		t.Error("a page that is not there passed")
	}
	if err := run(args, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := run(check, io.Discard); err != nil {
		t.Errorf("the page just written does not pass: %v", err)
	}
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, append(data, "and it is fast\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(check, io.Discard); err == nil {
		t.Error("a page changed by hand passed")
	}
}
