// Command page writes docs/benchmarks.md out of the recorded reports, or checks that it matches them: a page whose
// numbers were typed by hand says what somebody remembers.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/bench/result"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("page", flag.ContinueOnError)
	flags.SetOutput(stderr)
	check := flags.Bool("check", false, "write nothing and fail when the page does not match its reports")
	reports := flags.String("reports", "docs/benchmarks", "`folder` of the recorded reports")
	page := flags.String("page", "docs/benchmarks.md", "`file` to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	recorded, err := result.ReadDir(*reports)
	if err != nil {
		return err
	}
	if len(recorded) == 0 {
		return errors.New("no report is recorded in " + *reports)
	}
	text := []byte(result.Page(recorded))
	if !*check {
		if err := renameio.WriteFile(*page, text, 0o644); err != nil {
			return fmt.Errorf("writing the page: %w", err)
		}
		return nil
	}
	current, err := os.ReadFile(*page)
	if err != nil {
		return fmt.Errorf("reading the page: %w", err)
	}
	if !bytes.Equal(current, text) {
		return fmt.Errorf("%s does not match %s/*.json; run 'make bench-record'", *page, *reports)
	}
	return nil
}
