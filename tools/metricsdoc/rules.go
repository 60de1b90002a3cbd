package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var name = regexp.MustCompile(`^seakeep(_[a-z0-9]+){2,}$`)

// unbounded are labels whose values grow with the cluster or with whoever attacks it: a series for each would take the
// memory that is short in an outage (kubernetes/kubernetes#87669).
var unbounded = []string{"error", "ip", "message", "namespace", "node", "path", "pid", "pod", "source", "url", "user", "user_agent"}

// check holds a metric against the rules of naming.
func check(m metric) error {
	var errs []error
	if !name.MatchString(m.name) {
		errs = append(errs, errors.New("the name must be seakeep_<component>_<thing>, lower case"))
	}
	if total := strings.HasSuffix(m.name, "_total"); total != (m.kind == "counter") {
		errs = append(errs, fmt.Errorf("a name ends in _total when, and only when, it is a counter; this is a %s", m.kind))
	}
	for _, label := range m.labels {
		if slices.Contains(unbounded, label) {
			errs = append(errs, fmt.Errorf("label %s has no closed set of values", label))
		}
	}
	if !strings.HasSuffix(m.help, ".") {
		errs = append(errs, errors.New("the help must be a sentence"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}
