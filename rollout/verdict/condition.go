package verdict

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
)

// maxCondition bounds an expression; maxNodes what it is parsed to.
const (
	maxCondition = 4 << 10
	maxNodes     = 1000
)

// environment is all that an expression may name. The type of result is the provider's affair: a comparison of unlike things is
// found when it is made, and is then a measurement's error.
type environment struct {
	Result any `expr:"result"`
}

// Condition is an expression over result, in the language and with the functions of Argo Rollouts: asInt, asFloat, isNaN,
// isInf, isNil and default.
type Condition struct {
	text    string
	program *vm.Program
}

// ParseCondition compiles an expression; the error says where it is wrong.
func ParseCondition(text string) (*Condition, error) {
	if len(text) > maxCondition {
		return nil, fmt.Errorf("a condition must be at most %d bytes", maxCondition)
	}
	options := append(functions(), expr.MaxNodes(maxNodes), expr.Env(environment{}))
	program, err := expr.Compile(text, options...)
	if err != nil {
		return nil, err
	}
	return &Condition{text: text, program: program}, nil
}

// String is the expression.
func (c *Condition) String() string { return c.text }

// Holds evaluates it.
func (c *Condition) Holds(result any) (bool, error) {
	out, err := expr.Run(c.program, environment{Result: result})
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n") // the rest draws the place
		return false, fmt.Errorf("%s: %s", c.text, first)
	}
	holds, ok := out.(bool)
	if !ok {
		return false, fmt.Errorf("%s: must be true or false, is %T", c.text, out)
	}
	return holds, nil
}

func functions() []expr.Option {
	one := func(name string, f func(any) (any, error), types ...any) expr.Option {
		return expr.Function(name, func(args ...any) (any, error) {
			if len(args) != 1 {
				return nil, errors.New(name + " takes one value")
			}
			return f(args[0])
		}, types...)
	}
	return []expr.Option{
		one("asInt", func(v any) (any, error) {
			f, err := asFloat(v)
			if err != nil || math.Abs(f) > 1<<53 || math.IsNaN(f) {
				return nil, fmt.Errorf("asInt: %v is no whole number", v)
			}
			return int(f), nil
		}, new(func(any) int)),
		one("asFloat", func(v any) (any, error) { return asFloat(v) }, new(func(any) float64)),
		one("isNaN", func(v any) (any, error) { f, ok := v.(float64); return ok && math.IsNaN(f), nil }, new(func(any) bool)),
		one("isInf", func(v any) (any, error) { f, ok := v.(float64); return ok && math.IsInf(f, 0), nil }, new(func(any) bool)),
		one("isNil", func(v any) (any, error) { return empty(v), nil }, new(func(any) bool)),
		expr.Function("default", func(args ...any) (any, error) {
			if len(args) != 2 {
				return nil, errors.New("default takes a value and what stands for it when it is missing")
			}
			if empty(args[0]) {
				return args[1], nil
			}
			return args[0], nil
		}, new(func(any, any) any)),
	}
}

// empty is true for nil and for a list without elements: what a query found nothing for.
func empty(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Slice && r.Len() == 0
}

func asFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case int:
		return float64(v), nil
	case string:
		return strconv.ParseFloat(v, 64)
	}
	return 0, fmt.Errorf("asFloat: %v is no number", v)
}
