package v1alpha1

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GatePeers are the other gates of the cluster. Emergency rules are in force on all of them, and the budgets of throttles
// are divided among them. Nothing of it is needed to serve. It is read once, but for the keys.
type GatePeers struct {
	// Bind is the address and port to listen on, TCP and UDP; an IP address. 0.0.0.0 listens everywhere.
	Bind string `json:"bind"`
	// Advertise is what others are told to reach this gate at, an IP address and port. Default: bind, or the host's
	// address when bind is everywhere.
	Advertise string `json:"advertise,omitempty"`
	// Join are addresses, host:port, of some or all gates; this one may be among them. They are tried again for as long as
	// one of them is missing.
	Join []string `json:"join"`
	// KeyFile holds the keys all gates share, one a line, in base64, of 16, 24 or 32 bytes. The first encrypts, each
	// decrypts. Whoever has one can set emergency rules, so it must be readable by its owner only. Reloaded when it changes.
	KeyFile string `json:"keyFile"`
	// Name is this gate's among the others, unique: letters, digits, dots and dashes, at most 63. Default: the host's name.
	Name string `json:"name,omitempty"`
	// Budgets says whether the gates divide the budgets of throttles among them: "Shared" (default), or "Separate": each
	// gate has every budget to itself. All gates should say the same.
	Budgets PeerBudgets `json:"budgets,omitempty"`
	// ForgetAfter is how long a gate that cannot be reached keeps its part of every budget. Then the others divide it,
	// whether the gate is gone or cut off. Default 5m, 10s–24h.
	ForgetAfter *metav1.Duration `json:"forgetAfter,omitempty"`
}

// PeerBudgets says whose the budgets of throttles are.
type PeerBudgets string

// The two ways.
const (
	BudgetsShared   PeerBudgets = "Shared"
	BudgetsSeparate PeerBudgets = "Separate"
)

func (p *GatePeers) setDefaults() {
	if p.Budgets == "" {
		p.Budgets = BudgetsShared
	}
	p.ForgetAfter = orDuration(p.ForgetAfter, 5*time.Minute)
}

var gateName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$`)

func (p *GatePeers) validate(path *field.Path) field.ErrorList {
	errs := validatePeerAddress(p.Bind, path.Child("bind"))
	if p.Advertise != "" {
		errs = append(errs, validatePeerAddress(p.Advertise, path.Child("advertise"))...)
	}
	if len(p.Join) == 0 {
		errs = append(errs, field.Required(path.Child("join"), "where the other gates are"))
	}
	if len(p.Join) > 64 {
		errs = append(errs, field.TooMany(path.Child("join"), len(p.Join), 64))
	}
	for i, address := range p.Join {
		errs = append(errs, validateAddress(address, path.Child("join").Index(i))...)
	}
	errs = append(errs, required(p.KeyFile, path.Child("keyFile"), "gates never speak to each other unencrypted")...)
	if p.Name != "" && !gateName.MatchString(p.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), p.Name, "must be letters, digits, dots and dashes, at most 63"))
	}
	if p.Budgets != BudgetsShared && p.Budgets != BudgetsSeparate {
		errs = append(errs, field.NotSupported(path.Child("budgets"), p.Budgets, []PeerBudgets{BudgetsShared, BudgetsSeparate}))
	}
	return append(errs, validateDuration(p.ForgetAfter, 10*time.Second, 24*time.Hour, path.Child("forgetAfter"))...)
}

// validatePeerAddress wants an IP address and a port, both written out.
func validatePeerAddress(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "address:port")}
	}
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = netip.ParseAddr(host)
	}
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		return field.ErrorList{field.Invalid(path, value, "must be an IP address and a port")}
	}
	return nil
}
