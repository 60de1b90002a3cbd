package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxShownValue bounds how much of an offending value a message repeats.
const maxShownValue = 120

// Violation is one thing wrong in a file.
type Violation struct {
	// File is the path as the user gave it, "<stdin>" for standard input.
	File string
	// Line counts from 1; 0 when the file has no line to blame.
	Line int
	// Field is the field's path, "" for the document as a whole.
	Field string
	// Value is the offending value as it would be written in the file; nil for a field that is missing.
	Value *string
	// Rule is what the value breaks.
	Rule string
}

// Error is file:line: field: value "x": rule.
func (v *Violation) Error() string {
	var b strings.Builder
	b.WriteString(v.File)
	if v.Line > 0 {
		fmt.Fprintf(&b, ":%d", v.Line)
	}
	if v.Field != "" {
		b.WriteString(": ")
		b.WriteString(v.Field)
	}
	if v.Value != nil {
		fmt.Fprintf(&b, ": value %q", *v.Value)
	}
	b.WriteString(": ")
	b.WriteString(v.Rule)
	return b.String()
}

// Violations is everything wrong in a file, in the order of its lines. It is never empty.
type Violations []*Violation

// Error is one line a violation.
func (vs Violations) Error() string {
	lines := make([]string, len(vs))
	for i, v := range vs {
		lines[i] = v.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a single Violation.
func (vs Violations) Unwrap() []error {
	errs := make([]error, len(vs))
	for i, v := range vs {
		errs[i] = v
	}
	return errs
}

// asError sorts and returns the violations, or nil when there is none.
func (vs Violations) asError() error {
	if len(vs) == 0 {
		return nil
	}
	slices.SortStableFunc(vs, func(a, b *Violation) int { return a.Line - b.Line })
	return vs
}

// Join puts several errors of this package into one list of violations; other errors keep their text. It returns nil
// when every error is nil.
func Join(errs ...error) error {
	var all Violations
	for _, err := range errs {
		if err == nil {
			continue
		}
		var many Violations
		var one *Violation
		switch {
		case errors.As(err, &many):
			all = append(all, many...)
		case errors.As(err, &one):
			all = append(all, one)
		default:
			return errors.Join(errs...)
		}
	}
	return all.asError()
}

// show writes a value as a user would, cut to a readable length; nil when there is nothing to show.
func show(value any) *string {
	if value == nil {
		return nil
	}
	v := reflect.ValueOf(value)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		if _, ok := v.Interface().(fmt.Stringer); ok {
			break
		}
		v = v.Elem()
	}
	s := fmt.Sprintf("%v", v.Interface())
	if len(s) > maxShownValue {
		s = strings.ToValidUTF8(s[:maxShownValue], "") + "…"
	}
	return &s
}

// ruleOf turns apimachinery's error into value and rule.
func ruleOf(e *field.Error) (value *string, rule string) {
	switch e.Type {
	case field.ErrorTypeRequired:
		return nil, "required: " + e.Detail
	case field.ErrorTypeForbidden:
		return nil, "forbidden: " + e.Detail
	case field.ErrorTypeDuplicate:
		rule = "must be unique"
	case field.ErrorTypeTooLong, field.ErrorTypeTooMany:
		rule = "too long: " + e.Detail
	case field.ErrorTypeNotFound:
		rule = "names nothing that exists"
	default:
		rule = e.Detail
	}
	if rule == "" {
		rule = strings.ToLower(e.Type.String())
	}
	if e.Type != field.ErrorTypeInvalid && e.Type != field.ErrorTypeNotSupported && e.Detail != "" && !strings.Contains(rule, e.Detail) {
		rule += ": " + e.Detail
	}
	return show(e.BadValue), rule
}
