// Package observe measures what one component costs an API server, window by window: from a flow schema of API Priority and
// Fairness that is made for it, from gates' ledgers, or from an audit log. What it yields are the samples of package forecast.
package observe
