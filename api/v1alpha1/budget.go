package v1alpha1

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// APIBudgetAnnotation is where a workload declares what it needs of the API, on its ServiceAccount or on itself.
const APIBudgetAnnotation = "seakeep.dev/api-budget"

// APIBudget is what a workload may use of the API servers, in seats: seat-seconds per second. 0.02 seats are one LIST that takes
// the API server a second, every 50 seconds. A zero is not given; at least one is.
type APIBudget struct {
	// Seats bounds the workload as a whole, SeatsPerNode what it may use for each node of the cluster.
	Seats, SeatsPerNode float64
}

// Bounds of what a budget may say: the most catches a slip of the unit, the length keeps an annotation from being anything.
const (
	maxBudget       = 100_000
	maxBudgetLength = 128
)

var (
	budgetNumber = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,6})?$`)
	errBudget    = errors.New(`must be "seats=NUMBER", "seats-per-node=NUMBER", or both with a comma between`)
)

// ParseAPIBudget reads a budget:
//
//	budget = part [ "," part ]
//	part   = ( "seats" | "seats-per-node" ) "=" number
//	number = 1–6 digits [ "." 1–6 digits ], more than 0 and at most 100000
//
// Blanks around parts are ignored; each part may be there once.
func ParseAPIBudget(text string) (APIBudget, error) {
	var b APIBudget
	if len(text) > maxBudgetLength {
		return b, fmt.Errorf("must be at most %d bytes", maxBudgetLength)
	}
	parts := strings.Split(text, ",")
	if len(parts) > 2 {
		return b, errBudget
	}
	for _, part := range parts {
		name, value, ok := strings.Cut(strings.Trim(part, " \t"), "=")
		into := map[string]*float64{"seats": &b.Seats, "seats-per-node": &b.SeatsPerNode}[name]
		switch {
		case !ok || into == nil:
			return APIBudget{}, errBudget
		case *into != 0:
			return APIBudget{}, fmt.Errorf("%s must be there once", name)
		case !budgetNumber.MatchString(value):
			return APIBudget{}, fmt.Errorf("%s must be a number such as 4 or 0.02, got %q", name, value)
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || n <= 0 || n > maxBudget {
			return APIBudget{}, fmt.Errorf("%s must be more than 0 and at most %d, got %s", name, maxBudget, value)
		}
		*into = n
	}
	return b, nil
}

// On is the budget in a cluster of so many nodes: the lesser of the two bounds that are given.
func (b APIBudget) On(nodes int) float64 {
	perNode := b.SeatsPerNode * float64(max(1, nodes))
	switch {
	case b.SeatsPerNode == 0:
		return b.Seats
	case b.Seats == 0:
		return perNode
	}
	return min(b.Seats, perNode)
}

// String is how the budget is written.
func (b APIBudget) String() string {
	var parts []string
	if b.SeatsPerNode > 0 {
		parts = append(parts, "seats-per-node="+strconv.FormatFloat(b.SeatsPerNode, 'f', -1, 64))
	}
	if b.Seats > 0 {
		parts = append(parts, "seats="+strconv.FormatFloat(b.Seats, 'f', -1, 64))
	}
	return strings.Join(parts, ",")
}
