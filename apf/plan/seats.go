package plan

import (
	"errors"
	"fmt"
	"math"
)

// Level is one priority level, as far as shares go.
type Level struct {
	Name string
	// Exempt is never limited; its seats are a figure for what others may borrow of it.
	Exempt bool
	// Shares are its nominalConcurrencyShares, ≥ 0.
	Shares int32
	// Lendable is the part of its seats that others may use, in per cent, 0–100.
	Lendable int32
}

// Seats is what one API server's seats are, S: between Least and Most, both included. The levels' nominal limits are rounded
// up, so they tell S only so far; with Kubernetes' own levels it is known to within 3 of 600.
type Seats struct {
	Least int `json:"least"`
	Most  int `json:"most"`
}

// With widens the range, for API servers that were started with different limits.
func (s Seats) With(other Seats) Seats {
	if s == (Seats{}) {
		return other
	}
	return Seats{Least: min(s.Least, other.Least), Most: max(s.Most, other.Most)}
}

// ErrUnsettled is returned by Infer when the limits are not those of the levels: the API server has not digested the last
// change yet, or still drains a level that was deleted. It passes within seconds.
var ErrUnsettled = errors.New("the nominal limits are not (yet) those of the priority levels")

// maxSeats bounds what is believed: an API server with more in flight would have no memory left.
const maxSeats = 1_000_000

// Infer finds an API server's seats from the levels, the ballast among them, and the nominal limits that it says they have.
// Limits of levels that are not there mean nothing: an API server goes on showing those that were deleted until it restarts.
func Infer(levels []Level, nominal map[string]float64) (Seats, error) {
	sum := sharesOf(levels)
	if sum == 0 {
		return Seats{}, errors.New("no priority level has shares")
	}
	seats := Seats{Least: 1, Most: maxSeats}
	for _, l := range levels {
		n, ok := nominal[l.Name]
		if !ok {
			return Seats{}, fmt.Errorf("%w: there is none for %s", ErrUnsettled, l.Name)
		}
		if l.Shares == 0 {
			if n != 0 {
				return Seats{}, fmt.Errorf("%w: %s has no shares and %v seats", ErrUnsettled, l.Name, n)
			}
			continue
		}
		if !(n >= 1 && n <= maxSeats) || n != math.Trunc(n) {
			return Seats{}, fmt.Errorf("%w: %s has %v seats", ErrUnsettled, l.Name, n)
		}
		// n = ceil(S·s/sum), so n-1 < S·s/sum ≤ n.
		seats.Least = max(seats.Least, int((int64(n)-1)*sum/int64(l.Shares))+1)
		seats.Most = min(seats.Most, int(int64(n)*sum/int64(l.Shares)))
	}
	if seats.Least > seats.Most {
		return Seats{}, fmt.Errorf("%w: no number of seats gives all of them", ErrUnsettled)
	}
	return seats, nil
}

func sharesOf(levels []Level) (sum int64) {
	for _, l := range levels {
		sum += int64(l.Shares)
	}
	return sum
}

// nominal is the API server's own rule.
func nominal(seats int, shares, sum int64) int {
	if sum == 0 {
		return 0
	}
	return int((int64(seats)*shares + sum - 1) / sum)
}
