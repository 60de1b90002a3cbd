package budget

import "time"

// Status is what GET /v1/budgets answers.
type Status struct {
	Taken time.Time `json:"taken"`
	// Mode is the policy's: Shadow, Enforce or Disabled; "" when budgets are not configured.
	Mode string `json:"mode,omitempty"`
	// Default is the budget of ServiceAccounts that declare none; "": none.
	Default string `json:"default,omitempty"`
	// Read is when declarations were last read, Error why they could not be read again.
	Read  time.Time `json:"read,omitzero"`
	Error string    `json:"error,omitempty"`
	Nodes int       `json:"nodes"`
	// Accounts have a budget; Invalid declarations count for nothing.
	Accounts []AccountStatus `json:"accounts"`
	Invalid  []Declaration   `json:"invalid,omitempty"`
}

// AccountStatus is one account's budget and how it stands with it.
type AccountStatus struct {
	Account `json:",inline"`
	// Balance is what it may use at once, in seat-seconds, negative for a debt; Held is what runs now. Both are absent for an
	// account that sent nothing lately.
	Balance *float64 `json:"balance,omitempty"`
	Held    *int     `json:"held,omitempty"`
}
