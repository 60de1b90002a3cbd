package budget

import (
	"cmp"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Declaration is one object's word.
type Declaration struct {
	// Account is the ServiceAccount it is about, namespace/name.
	Account string `json:"account"`
	// Kind and Name are the object's; its namespace is the account's.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Budget is the annotation as it stands, and Error why it cannot be used.
	Budget string `json:"budget"`
	Error  string `json:"error,omitempty"`
}

// Cluster is what was read.
type Cluster struct {
	// Read is when declarations were, Sized when the rest was; zero: never.
	Read  time.Time `json:"read,omitzero"`
	Sized time.Time `json:"sized,omitzero"`
	// Nodes is how many there are, Processors how many one API server uses; 0: it was not said.
	Nodes      int `json:"nodes"`
	Processors int `json:"processors"`
	// Declarations are ordered by account, kind and name.
	Declarations []Declaration `json:"declarations"`
	// Callees are ordered by Service and name.
	Callees []Callee `json:"callees,omitempty"`
}

const kindAccount = "ServiceAccount"

// Account is one account's budget.
type Account struct {
	User string `json:"user"`
	// Seats is what it may use in this cluster; Declared is the sum of its declarations, before the most that is granted.
	Seats    float64 `json:"seats"`
	Declared float64 `json:"declared"`
	// By are the declarations that count: the ServiceAccount's own, or else its workloads'.
	By []Declaration `json:"by"`
}

// Accounts adds the declarations up, for a cluster of so many nodes. most bounds each account when it is not nil. A declaration
// that cannot be used counts for nothing; an account with no other has no budget of its own.
func Accounts(declarations []Declaration, nodes int, most *v1alpha1.APIBudget) []Account {
	byAccount := map[string][]Declaration{}
	own := map[string]bool{}
	for _, d := range declarations {
		if d.Error == "" {
			byAccount[d.Account] = append(byAccount[d.Account], d)
			own[d.Account] = own[d.Account] || d.Kind == kindAccount
		}
	}
	accounts := make([]Account, 0, len(byAccount))
	for name, list := range byAccount {
		account := Account{User: userOf(name)}
		for _, d := range list {
			budget, err := v1alpha1.ParseAPIBudget(d.Budget)
			if err != nil || own[name] && d.Kind != kindAccount {
				continue
			}
			account.Declared += budget.On(nodes)
			account.By = append(account.By, d)
		}
		if account.Declared == 0 {
			continue
		}
		account.Seats = account.Declared
		if most != nil {
			account.Seats = min(account.Seats, most.On(nodes))
		}
		accounts = append(accounts, account)
	}
	slices.SortFunc(accounts, func(a, b Account) int { return cmp.Compare(a.User, b.User) })
	return accounts
}

// userOf is the user name of a ServiceAccount given as namespace/name.
func userOf(account string) string {
	for i := range len(account) {
		if account[i] == '/' {
			return "system:serviceaccount:" + account[:i] + ":" + account[i+1:]
		}
	}
	return account
}

// declare makes a declaration of an annotation.
func declare(account, kind, name, text string) Declaration {
	d := Declaration{Account: account, Kind: kind, Name: name, Budget: text}
	if len(text) > 256 {
		d.Budget = text[:256]
	}
	if _, err := v1alpha1.ParseAPIBudget(text); err != nil {
		d.Error = err.Error()
	}
	return d
}
