package gate

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/budget"
	"github.com/seakeep/seakeep/gate/clamp"
	"github.com/seakeep/seakeep/gate/limit"
)

// clampStatus answers the admin endpoint's question whose cost grows.
func (p *policing) clampStatus() any {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Mode = string(p.policy.Load().clamp.Mode)
	s.Suspects = slices.Clone(s.Suspects)
	if s.Suspects == nil {
		s.Suspects = []clamp.Suspect{}
	}
	return s
}

// shadowStatus answers the admin endpoint's question whom rules in shadow would have turned away.
func (p *policing) shadowStatus() any {
	return v1alpha1.ShadowStatus{Since: metav1.NewTime(p.began), Time: metav1.Now(), Rejected: p.gate.limits.Shadowed()}
}

// budgetStatus answers the admin endpoint's question what accounts may use.
func (p *policing) budgetStatus() any {
	rules := p.policy.Load()
	cluster, err := p.reading.Now()
	status := budget.Status{Taken: time.Now(), Read: cluster.Read, Accounts: []budget.AccountStatus{}}
	p.mu.Lock()
	status.Nodes, _ = p.nodes(rules, &cluster, limit.Usage{Nodes: p.status.Nodes})
	p.mu.Unlock()
	if rules.budgets == nil {
		return status
	}
	status.Mode, status.Default = string(rules.budgets.Mode), rules.budgets.Default
	if err != nil {
		status.Error = err.Error()
	}
	accounts := budget.Accounts(cluster.Declarations, status.Nodes, rules.most)
	uses := map[string]limit.BudgetUse{}
	for _, use := range p.gate.limits.BudgetsNow() {
		uses[use.User] = use
		if !slices.ContainsFunc(accounts, func(a budget.Account) bool { return a.User == use.User }) {
			accounts = append(accounts, budget.Account{User: use.User, Seats: use.Seats, By: []budget.Declaration{}})
		}
	}
	for _, account := range accounts {
		one := budget.AccountStatus{Account: account}
		if use, ok := uses[account.User]; ok {
			one.Balance, one.Held = &use.Balance, &use.Held
		}
		status.Accounts = append(status.Accounts, one)
	}
	slices.SortStableFunc(status.Accounts, func(a, b budget.AccountStatus) int { return cmp.Compare(a.User, b.User) })
	for _, d := range cluster.Declarations {
		if d.Error != "" {
			status.Invalid = append(status.Invalid, d)
		}
	}
	return status
}
