package plan

import (
	"fmt"
	"math"
	"slices"
)

// Ballast is the name of the level that withholds seats.
const Ballast = "seakeep-ballast"

// catchAll is Kubernetes' own, and its spec is fixed.
const catchAll = "catch-all"

// Protected are the levels that keep their seats whatever everyone else gets: what the cluster lives by.
var Protected = []string{"leader-election", "node-high", "system"}

// Request is what Make decides from.
type Request struct {
	// Levels are the levels as they are without Seakeep: no ballast, no edit.
	Levels []Level
	// Seats are an API server's.
	Seats Seats
	// Protected are the names of the levels that keep their seats. Names that are not there do no harm.
	Protected []string
	// Wanted is how many seats of one API server all other levels together are to have.
	Wanted int
}

// Role is what a plan does with a level.
type Role string

// The roles.
const (
	RoleExempt    Role = "exempt"    // left alone; never limited
	RoleProtected Role = "protected" // gets the shares that keep its seats, and lends nothing meanwhile
	RoleElse      Role = "else"      // left alone; its seats shrink with its part of all shares
	RoleBallast   Role = "ballast"
)

// Row is one level before and after.
type Row struct {
	Name           string `json:"name"`
	Role           Role   `json:"role"`
	SharesBefore   int32  `json:"sharesBefore"`
	SharesAfter    int32  `json:"sharesAfter"`
	LendableBefore int32  `json:"lendableBefore"`
	LendableAfter  int32  `json:"lendableAfter"`
	// SeatsBefore and SeatsAfter are nominal limits, with Seats.Most.
	SeatsBefore int `json:"seatsBefore"`
	SeatsAfter  int `json:"seatsAfter"`
}

// Changed is true for a level that is written.
func (r Row) Changed() bool {
	return r.SharesBefore != r.SharesAfter || r.LendableBefore != r.LendableAfter
}

// Plan is how many seats everyone else gets, and what has to be written for that.
type Plan struct {
	Seats Seats `json:"seats"`
	// Wanted is what was asked for; Full what everyone else has without a ballast; Floor the least that can be: one seat for
	// each level with shares.
	Wanted int `json:"wanted"`
	Full   int `json:"full"`
	Floor  int `json:"floor"`
	// Else is what everyone else gets: the sum of their nominal limits, and what the exempt level lends them. It is at most
	// max(Wanted, Floor), and under that by at most Error: less than one seat for each level, which rounding costs, and what
	// is not known of S.
	Else  int `json:"else"`
	Error int `json:"error"`
	// Ballast is the ballast's shares; 0 is no ballast, and nothing edited.
	Ballast int32 `json:"ballast"`
	// Rows are the levels, the ballast last.
	Rows []Row `json:"levels"`
}

// Make plans. The result, when S is within Seats: the sum of all other levels' nominal limits is at most Wanted (or Floor,
// if that is more), and every protected level has at least the nominal limit that it has without Seakeep.
func Make(r Request) (Plan, error) {
	m := maker{Request: r, total: sharesOf(r.Levels)}
	if r.Seats.Least < 1 || r.Seats.Most < r.Seats.Least || r.Seats.Most > maxSeats {
		return Plan{}, fmt.Errorf("an API server's seats must be 1–%d, got %d–%d", maxSeats, r.Seats.Least, r.Seats.Most)
	}
	if m.total == 0 {
		return Plan{}, fmt.Errorf("no priority level has shares")
	}
	if slices.Contains(r.Protected, catchAll) {
		return Plan{}, fmt.Errorf("the level %s cannot be protected: the API server lets nobody edit it", catchAll)
	}
	for _, l := range r.Levels {
		if l.Shares < 0 || l.Name == Ballast {
			return Plan{}, fmt.Errorf("level %s with %d shares cannot be planned with", l.Name, l.Shares)
		}
		if l.Shares > 0 && m.role(l) != RoleProtected {
			m.high = max(m.high, int64(r.Seats.Most)*int64(l.Shares))
		}
	}
	m.high = max(m.high, m.total)
	p := Plan{Seats: r.Seats, Wanted: r.Wanted, Full: m.elsewhere(m.total), Floor: m.elsewhere(m.high)}
	wanted := max(r.Wanted, p.Floor)
	if wanted >= p.Full {
		return m.finish(p, m.total)
	}
	sum, err := m.search(wanted)
	if err != nil {
		return Plan{}, err
	}
	return m.finish(p, sum)
}

type maker struct {
	Request
	total int64 // all shares, without Seakeep
	high  int64 // the sum of shares with which no level that is left alone has more than one seat
}

func (m *maker) role(l Level) Role {
	switch {
	case l.Exempt:
		return RoleExempt
	case slices.Contains(m.Protected, l.Name):
		return RoleProtected
	}
	return RoleElse
}

// elsewhere is what everyone else can use when all shares are sum: their own, and what the exempt level lends them.
func (m *maker) elsewhere(sum int64) int { return m.elsewhereOf(m.Seats.Most, sum) }

func (m *maker) elsewhereOf(all int, sum int64) (seats int) {
	for _, l := range m.Levels {
		n := nominal(all, int64(l.Shares), sum)
		switch m.role(l) {
		case RoleElse:
			seats += n
		case RoleExempt:
			seats += int(math.Round(float64(n) * float64(l.Lendable) / 100))
		}
	}
	return seats
}

// kept is the fewest shares of sum that keep a protected level's seats, and not fewer than it has: ceil(S·p/D) ≥ f holds from
// S·p/D > f-1 on. S is taken at its least, so that the seats are kept whatever it is.
func (m *maker) kept(l Level, sum int64) int64 {
	if l.Shares == 0 {
		return 0
	}
	seats := int64(nominal(m.Seats.Most, int64(l.Shares), m.total))
	return max(int64(l.Shares), (seats-1)*sum/int64(m.Seats.Least)+1)
}

// ballast is what is left of sum for the ballast.
func (m *maker) ballast(sum int64) int64 {
	left := sum
	for _, l := range m.Levels {
		if m.role(l) == RoleProtected {
			left -= m.kept(l, sum)
		} else {
			left -= int64(l.Shares)
		}
	}
	return left
}

// search finds the smallest sum of shares with which everyone else has at most the wanted seats, and with which there is
// room for what the protected levels need. The seats only shrink as the sum grows.
func (m *maker) search(wanted int) (int64, error) {
	low, high := m.total, m.high
	for low < high {
		middle := (low + high) / 2
		if m.elsewhere(middle) <= wanted {
			high = middle
		} else {
			low = middle + 1
		}
	}
	// A sum little above the present one has no room: each protected level's shares are rounded up. The room grows with the
	// sum, though not evenly.
	const most = 1 << 20
	for sum := low; sum < low+most; sum++ {
		if m.ballast(sum) >= 1 {
			return sum, nil
		}
	}
	return 0, fmt.Errorf("%d seats for everyone else leave no room for the protected levels", wanted)
}

// finish writes the plan down for a sum of all shares; the present sum is no ballast.
func (m *maker) finish(p Plan, sum int64) (Plan, error) {
	p.Else = m.elsewhere(sum)
	withhold := sum > m.total
	for _, l := range m.Levels {
		row := Row{
			Name: l.Name, Role: m.role(l), SharesBefore: l.Shares, SharesAfter: l.Shares, LendableBefore: l.Lendable, LendableAfter: l.Lendable,
			SeatsBefore: nominal(m.Seats.Most, int64(l.Shares), m.total),
		}
		shares := int64(l.Shares)
		if row.Role == RoleProtected && withhold {
			shares = m.kept(l, sum)
			// What it lent, everyone else would use: seats that were to be withheld.
			row.LendableAfter = 0
		}
		if shares > math.MaxInt32 {
			return Plan{}, fmt.Errorf("level %s would need %d shares, which is more than fits: scale all levels' shares down first", l.Name, shares)
		}
		row.SharesAfter, row.SeatsAfter = int32(shares), nominal(m.Seats.Most, shares, sum)
		p.Rows = append(p.Rows, row)
	}
	ballast := int64(0)
	if withhold {
		ballast = m.ballast(sum)
		p.Error = max(p.Wanted, p.Floor) - m.elsewhereOf(m.Seats.Least, sum)
	}
	if ballast > math.MaxInt32 {
		return Plan{}, fmt.Errorf("the ballast would need %d shares, which is more than fits: scale all levels' shares down first", ballast)
	}
	p.Ballast = int32(ballast)
	p.Rows = append(p.Rows, Row{Name: Ballast, Role: RoleBallast, SharesAfter: p.Ballast, SeatsAfter: nominal(m.Seats.Most, ballast, sum)})
	return p, nil
}
