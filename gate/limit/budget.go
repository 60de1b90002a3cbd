package limit

import (
	"math"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// BudgetRule is the name in rejections of what an account's API budget turned away.
const BudgetRule = "api-budget"

// A budget is in seats: seat-seconds per second. It may be saved up for the start of a program, and a few requests may run at
// once where the budget is a fraction of a seat. A LIST that holds ten seats is charged ten. Raising either lets more through before the budget bites.
const (
	budgetSaved    = 5.0 // seconds of it
	budgetLeast    = 2.0 // seat-seconds, whatever the rate: eighty small LISTs at a controller's start
	budgetAtOnce   = 4.0 // times the budget, rounded up, may run at once
	budgetMean     = 0.2 // of the newest request in the mean of how long one holds its seat
	budgetGuess    = 20 * time.Millisecond
	accountsPrefix = "system:serviceaccount:"
)

// Budgets are what accounts may take.
type Budgets struct {
	// Mode is Enforce or Shadow; Disabled is no budget.
	Mode v1alpha1.PolicyMode
	// Seats are by user name. Default is for every other ServiceAccount that Exempt does not except; 0 is none.
	Seats   map[string]float64
	Default float64
	// Exempt is true for users without a budget, whatever they declare; nil exempts nobody. It is safe for concurrent use.
	Exempt func(user string) bool
}

// SetBudgets puts budgets in force for the next request, each times this gate's share. Accounts whose budget does not change keep
// their balance.
func (e *Engine) SetBudgets(b Budgets) { e.budgets.Store(&b) }

// of is a user's budget in seats, 0 for none.
func (b *Budgets) of(user string) float64 {
	if b == nil || b.Mode == v1alpha1.PolicyDisabled || b.Exempt != nil && b.Exempt(user) {
		return 0
	}
	if seats, ok := b.Seats[user]; ok {
		return seats
	}
	if strings.HasPrefix(user, accountsPrefix) {
		return b.Default
	}
	return 0
}

// allowance is the balance of one account's budget, in seat-seconds; guarded by the account's mutex.
type allowance struct {
	rate    float64
	balance float64
	held    int     // requests, those too that wait for their seats
	seats   int     // they hold
	mean    float64 // seat-seconds of a request
}

func (a *allowance) saved() float64 { return max(budgetLeast, budgetSaved*a.rate) }

// set changes the rate; a new budget begins full.
func (a *allowance) set(rate float64) {
	switch {
	case rate == a.rate:
		return
	case a.rate == 0:
		*a = allowance{rate: rate, held: a.held, seats: a.seats, mean: budgetGuess.Seconds()}
		a.balance = a.saved()
	default:
		a.rate = rate
		a.balance = min(a.balance, a.saved())
	}
}

func (a *allowance) advance(elapsed float64) {
	if a.rate > 0 {
		a.balance = min(a.saved(), a.balance+elapsed*(a.rate-float64(a.seats)))
	}
}

// take begins a request or says why not. What runs already is expected to take as long as others did.
func (a *allowance) take() *refusal {
	left := a.balance - float64(a.held+1)*a.mean
	switch {
	case a.held > 0 && float64(a.held) >= math.Ceil(budgetAtOnce*a.rate):
		return &refusal{reason: ReasonBudget, wait: seconds(max(0, -left) / a.rate)}
	case left < 0 && (a.held > 0 || a.balance < 0):
		return &refusal{reason: ReasonBudget, wait: seconds(-left / a.rate)}
	}
	a.held++
	return nil
}

func (a *allowance) end(took float64) {
	a.held--
	if took > 0 {
		a.mean += budgetMean * (took - a.mean)
	}
}

func (a *allowance) settled() bool { return a.held == 0 && (a.rate == 0 || a.balance >= a.saved()) }

// decideBudget charges the request to its account's budget, if it has one. What is never delayed is not charged. over is true
// when the budget refuses, in shadow too.
func (e *Engine) decideBudget(p *Pass, s *subject, now time.Time) (rejection *Rejection, over bool) {
	set := e.budgets.Load()
	if set == nil || set.Mode == v1alpha1.PolicyDisabled || p.shared || !costs(s.Request) || s.Lane == flow.BreakGlass ||
		s.Caller.Certainty == flow.Unverified {
		return nil, false
	}
	rate := set.of(s.Caller.User) * e.share.load()
	if rate == 0 || e.squeeze.exempts(s) {
		return nil, false
	}
	acc := p.seat.account
	acc.mu.Lock()
	acc.advance(now)
	acc.allowance.set(rate)
	refused := acc.allowance.take()
	acc.mu.Unlock()
	switch {
	case refused == nil:
		p.seat.charged = true
		return nil, false
	case set.Mode == v1alpha1.PolicyShadow:
		e.shadowed.add(shadowKey(BudgetRule, ReasonBudget, false, s.Request), now)
		e.metrics.shadowed[ReasonBudget].Inc()
		return nil, true
	}
	return e.throttle(BudgetRule, refused, denials{}), true
}

// BudgetUse is how an account stands with its budget.
type BudgetUse struct {
	User string `json:"user"`
	// Seats is the budget in force, Balance what may be used at once in seat-seconds (negative is a debt), Held what runs now.
	Seats   float64 `json:"seats"`
	Balance float64 `json:"balance"`
	Held    int     `json:"held"`
}

// BudgetsNow returns the accounts that were charged to a budget lately, in no order.
func (e *Engine) BudgetsNow() []BudgetUse {
	now := e.clock()
	a := &e.accounts
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := []BudgetUse{}
	for name, acc := range a.users {
		acc.mu.Lock()
		acc.advance(now)
		if acc.allowance.rate > 0 {
			list = append(list, BudgetUse{User: name, Seats: acc.allowance.rate, Balance: acc.allowance.balance, Held: acc.allowance.held})
		}
		acc.mu.Unlock()
	}
	return list
}
