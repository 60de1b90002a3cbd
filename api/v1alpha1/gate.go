package v1alpha1

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// KindGateConfiguration configures one gate process.
const KindGateConfiguration = "GateConfiguration"

// GateConfiguration is what `seakeep gate --config` reads. Everything but the listen addresses, the admin endpoint
// and the state directory is reloaded while the gate runs; a file that does not validate leaves the running
// configuration in force.
type GateConfiguration struct {
	TypeMeta `json:",inline"`
	// Listen is where clients connect.
	Listen GateListen `json:"listen"`
	// Upstreams are the API servers behind the gate; one is enough.
	Upstreams []GateUpstream `json:"upstreams"`
	// Balance says how requests and watches are spread over several API servers.
	Balance GateBalance `json:"balance,omitempty"`
	// Identity says how callers are recognised and how their identity is passed on.
	Identity GateIdentity `json:"identity"`
	// Limits are the operator's rules, tried in order before the shipped defaults; the first match decides.
	Limits []LimitRule `json:"limits,omitempty"`
	// DefaultLimits switches the rules that ship with Seakeep: "Enabled" (default) or "Disabled".
	// `seakeep config defaults` prints them.
	DefaultLimits Switch `json:"defaultLimits,omitempty"`
	// Relay shares reads of the resources it names between clients; absent: every request is forwarded.
	Relay *GateRelay `json:"relay,omitempty"`
	// Overload admits requests by what they cost, by whose they are and by what the API servers can take; absent: everything
	// that the limits let through is forwarded at once.
	Overload *GateOverload `json:"overload,omitempty"`
	// Clamp names the client whose cost grows with the nodes it runs on, and clamps it when told to.
	Clamp GateClamp `json:"clamp,omitempty"`
	// Budgets enforces what workloads declare they need of the API; absent: nothing is read or enforced.
	Budgets *GateBudgets `json:"budgets,omitempty"`
	// Peers are the other gates; absent: this gate is alone.
	Peers *GatePeers `json:"peers,omitempty"`
	// Service keeps the gates behind the Service default/kubernetes; absent: whoever sends clients here is configured
	// elsewhere.
	Service *GateService `json:"service,omitempty"`
	// Admin is the endpoint for emergency rules, status and talkers.
	Admin GateAdmin `json:"admin"`
	// Ledger bounds the memory of who costs what.
	Ledger GateLedger `json:"ledger,omitempty"`
	// StateDir keeps emergency rules, cached issuer keys and the audit chain over a restart. Must be writable.
	StateDir string `json:"stateDir"`
	// UpstreamTimeout is how long a request that is no stream waits for the first byte of its answer, and for each further
	// part; longer than the API server's --request-timeout, so that the API server's word comes first. A client has as
	// long to send its body, as long again to take its answer, and as long for each part of a stream.
	// Default 75s, 1s–10m.
	UpstreamTimeout *metav1.Duration `json:"upstreamTimeout,omitempty"`
	// DrainTimeout is how long SIGTERM waits for requests in flight; watches are closed cleanly at once.
	// Default 10s, 0s–10m.
	DrainTimeout *metav1.Duration `json:"drainTimeout,omitempty"`
	// Tracing sends spans of sampled requests to an OpenTelemetry collector; absent: off, at no cost.
	Tracing *GateTracing `json:"tracing,omitempty"`
	// AccessLog writes some requests as JSON lines; absent: off, at no cost.
	AccessLog *GateAccessLog `json:"accessLog,omitempty"`
}

// Switch is "Enabled" or "Disabled".
type Switch string

// The two positions of a Switch.
const (
	Enabled  Switch = "Enabled"
	Disabled Switch = "Disabled"
)

// GateListen is the standard lane's listener.
type GateListen struct {
	// Address is host:port; an empty host is refused, so that listening everywhere is always written out.
	Address string `json:"address"`
	// CertFile and KeyFile are the serving certificate, reloaded when they change.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// MetricsAddress serves /metrics, /healthz and /readyz in plain HTTP; loopback only unless
	// MetricsOpen is Enabled. Empty: no such listener.
	MetricsAddress string `json:"metricsAddress,omitempty"`
	MetricsOpen    Switch `json:"metricsOpen,omitempty"`
	// Connections bounds what clients may hold open.
	Connections GateConnections `json:"connections,omitempty"`
}

// IdentityMode is how a verified client certificate's identity reaches the API server.
type IdentityMode string

const (
	// FrontProxy sends X-Remote-* headers, authenticated by a front-proxy client certificate. The default.
	FrontProxy IdentityMode = "FrontProxy"
	// Impersonation sends Impersonate-* headers as the gate's own identity; for control planes whose
	// --requestheader-* flags cannot be set. Clients cannot impersonate through such a gate.
	Impersonation IdentityMode = "Impersonation"
)

// GateIdentity says how callers are recognised.
type GateIdentity struct {
	// Mode defaults to FrontProxy.
	Mode IdentityMode `json:"mode,omitempty"`
	// ClientCAFile verifies client certificates; the API server's --client-ca-file.
	ClientCAFile string `json:"clientCAFile"`
	// ProxyCertFile and ProxyKeyFile are the front-proxy client certificate (or, in mode Impersonation, the
	// gate's own). Whoever has the key can be any user, so it must be readable by its owner only, who must be the
	// gate's user or root, in a folder that not everybody may write. A rotated pair is in use when both files fit.
	ProxyCertFile string `json:"proxyCertFile"`
	ProxyKeyFile  string `json:"proxyKeyFile"`
	// RefuseGroups are groups a client certificate may not carry through this lane. Default: system:masters,
	// whose members are exempt from authorization: they belong on the break-glass lane. A list without it is refused
	// unless AllowMasters is Enabled.
	RefuseGroups []string `json:"refuseGroups,omitempty"`
	// RequestHeaders are the names of the headers that carry an identity, for API servers whose flags rename them.
	RequestHeaders RequestHeaders `json:"requestHeaders,omitempty"`
	// AllowMasters, when Enabled, acknowledges that certificates of system:masters pass this lane; RefuseGroups then
	// may not name the group. Default Disabled.
	AllowMasters Switch `json:"allowMasters,omitempty"`
	// ServiceAccounts verifies ServiceAccount tokens offline, for limiting only; nothing is authorized by it.
	ServiceAccounts *ServiceAccountKeys `json:"serviceAccounts,omitempty"`
	// OIDC verifies ID tokens offline against cached issuer keys, for limiting only.
	OIDC []OIDCIssuer `json:"oidc,omitempty"`
}

// ServiceAccountKeys are the API server's token settings.
type ServiceAccountKeys struct {
	// Issuers accepted (--service-account-issuer).
	Issuers []string `json:"issuers"`
	// KeyFiles hold PEM public keys (--service-account-key-file).
	KeyFiles []string `json:"keyFiles"`
	// Audiences accepted (--api-audiences); default the issuers, as the API server's.
	Audiences []string `json:"audiences,omitempty"`
}

// OIDCIssuer is one --oidc-issuer.
type OIDCIssuer struct {
	// IssuerURL is compared with the token's iss.
	IssuerURL string `json:"issuerURL"`
	// ClientID must be among the token's audiences.
	ClientID string `json:"clientID"`
	// UsernameClaim defaults to "sub"; UsernamePrefix to IssuerURL + "#", as the API server's flags do.
	UsernameClaim  string  `json:"usernameClaim,omitempty"`
	UsernamePrefix *string `json:"usernamePrefix,omitempty"`
	GroupsClaim    string  `json:"groupsClaim,omitempty"`
	GroupsPrefix   string  `json:"groupsPrefix,omitempty"`
	// JWKSFile holds the issuer's keys as a JSON Web Key Set and is reloaded when it changes. When JWKSURL is
	// set the gate refreshes the file itself and keeps using it when the issuer is unreachable.
	JWKSFile string `json:"jwksFile"`
	JWKSURL  string `json:"jwksURL,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
}

// GateAdmin is where operators speak to the gate.
type GateAdmin struct {
	// Socket is a unix socket's path; the file's mode (0600, owner only) is the authorization.
	Socket string `json:"socket"`
	// Remote is an optional mTLS listener.
	Remote *GateAdminRemote `json:"remote,omitempty"`
}

// GateAdminRemote is the admin endpoint over mTLS: only certificates of ClientCAFile are heard.
type GateAdminRemote struct {
	Address      string `json:"address"`
	CertFile     string `json:"certFile"`
	KeyFile      string `json:"keyFile"`
	ClientCAFile string `json:"clientCAFile"`
	// AllowedNames are the certificate common names that may act. Required: default is deny.
	AllowedNames []string `json:"allowedNames"`
}

// GateLedger bounds what the gate remembers of its clients.
type GateLedger struct {
	// MaxClients is the number of (user, user agent, verb, resource) entries kept; the error of every count is
	// stated beside it. Default 2048, 16–65536; about 500 bytes each.
	MaxClients int `json:"maxClients,omitempty"`
}

// SetDefaults implements Object.
func (c *GateConfiguration) SetDefaults() {
	if c.DefaultLimits == "" {
		c.DefaultLimits = Enabled
	}
	if c.Listen.MetricsOpen == "" {
		c.Listen.MetricsOpen = Disabled
	}
	c.Listen.Connections.setDefaults()
	c.Identity.RequestHeaders.setDefaults()
	if c.Identity.Mode == "" {
		c.Identity.Mode = FrontProxy
	}
	if c.Identity.AllowMasters == "" {
		c.Identity.AllowMasters = Disabled
	}
	if c.Identity.RefuseGroups == nil && c.Identity.AllowMasters == Disabled {
		c.Identity.RefuseGroups = []string{mastersGroup}
	}
	for i := range c.Identity.OIDC {
		c.Identity.OIDC[i].setDefaults()
	}
	for i := range c.Limits {
		c.Limits[i].SetDefaults()
	}
	if c.Ledger.MaxClients == 0 {
		c.Ledger.MaxClients = 2048
	}
	if c.UpstreamTimeout == nil {
		c.UpstreamTimeout = &metav1.Duration{Duration: 75 * time.Second}
	}
	if c.DrainTimeout == nil {
		c.DrainTimeout = &metav1.Duration{Duration: 10 * time.Second}
	}
	for i := range c.Upstreams {
		c.Upstreams[i].setDefaults()
	}
	c.Balance.setDefaults()
	if c.Relay != nil {
		c.Relay.setDefaults()
	}
	if c.Overload != nil {
		c.Overload.setDefaults()
	}
	c.Clamp.setDefaults()
	if c.Budgets != nil {
		c.Budgets.setDefaults()
	}
	if c.Peers != nil {
		c.Peers.setDefaults()
	}
	if c.Service != nil {
		c.Service.setDefaults()
	}
	if c.Tracing != nil {
		c.Tracing.setDefaults()
	}
	if c.AccessLog != nil {
		c.AccessLog.setDefaults()
	}
}

// mastersGroup is exempt from authorization and from priority and fairness.
const mastersGroup = "system:masters"

func (o *OIDCIssuer) setDefaults() {
	if o.UsernameClaim == "" {
		o.UsernameClaim = "sub"
	}
	if o.UsernamePrefix == nil {
		prefix := ""
		if o.UsernameClaim != "email" { // the API server prefixes every claim but email
			prefix = o.IssuerURL + "#"
		}
		o.UsernamePrefix = &prefix
	}
}

// Validate implements Object.
func (c *GateConfiguration) Validate() field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, c.Listen.validate(field.NewPath("listen"))...)
	errs = append(errs, validateUpstreams(c.Upstreams, field.NewPath("upstreams"))...)
	errs = append(errs, c.Balance.validate(field.NewPath("balance"))...)
	errs = append(errs, c.Identity.validate(field.NewPath("identity"))...)
	errs = append(errs, validateSwitch(c.DefaultLimits, field.NewPath("defaultLimits"))...)
	errs = append(errs, validateLimitRules(c.Limits, field.NewPath("limits"))...)
	errs = append(errs, c.Admin.validate(field.NewPath("admin"))...)
	if n := c.Ledger.MaxClients; n < 16 || n > 65536 {
		errs = append(errs, field.Invalid(field.NewPath("ledger", "maxClients"), n, "must be between 16 and 65536"))
	}
	errs = append(errs, required(c.StateDir, field.NewPath("stateDir"), "emergency rules must survive a restart")...)
	if d := c.UpstreamTimeout.Duration; d < time.Second || d > 10*time.Minute {
		errs = append(errs, field.Invalid(field.NewPath("upstreamTimeout"), d.String(), "must be between 1s and 10m"))
	}
	if d := c.DrainTimeout.Duration; d < 0 || d > 10*time.Minute {
		errs = append(errs, field.Invalid(field.NewPath("drainTimeout"), d.String(), "must be between 0s and 10m"))
	}
	if c.Relay != nil {
		errs = append(errs, c.Relay.validate(field.NewPath("relay"))...)
	}
	if c.Overload != nil {
		errs = append(errs, c.Overload.validate(field.NewPath("overload"))...)
	}
	errs = append(errs, c.Clamp.validate(field.NewPath("clamp"))...)
	if c.Budgets != nil {
		errs = append(errs, c.Budgets.validate(field.NewPath("budgets"))...)
	}
	if c.Peers != nil {
		errs = append(errs, c.Peers.validate(field.NewPath("peers"))...)
	}
	if c.Service != nil {
		errs = append(errs, c.Service.validate(field.NewPath("service"))...)
	}
	if c.Tracing != nil {
		errs = append(errs, c.Tracing.validate(field.NewPath("tracing"))...)
	}
	if c.AccessLog != nil {
		errs = append(errs, c.AccessLog.validate(field.NewPath("accessLog"))...)
	}
	return errs
}

func (l *GateListen) validate(path *field.Path) field.ErrorList {
	errs := validateAddress(l.Address, path.Child("address"))
	errs = append(errs, required(l.CertFile, path.Child("certFile"), "the serving certificate")...)
	errs = append(errs, required(l.KeyFile, path.Child("keyFile"), "the serving key")...)
	errs = append(errs, validateSwitch(l.MetricsOpen, path.Child("metricsOpen"))...)
	errs = append(errs, l.Connections.validate(path.Child("connections"))...)
	if l.MetricsAddress != "" {
		errs = append(errs, validateAddress(l.MetricsAddress, path.Child("metricsAddress"))...)
		if l.MetricsOpen != Enabled && !IsLoopback(l.MetricsAddress) {
			errs = append(errs, field.Invalid(path.Child("metricsAddress"), l.MetricsAddress,
				"must be a loopback address unless metricsOpen is Enabled: metrics are served without authentication"))
		}
	}
	return errs
}

func (id *GateIdentity) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if id.Mode != FrontProxy && id.Mode != Impersonation {
		errs = append(errs, field.NotSupported(path.Child("mode"), id.Mode, []IdentityMode{FrontProxy, Impersonation}))
	}
	errs = append(errs, required(id.ClientCAFile, path.Child("clientCAFile"), "the CA of client certificates")...)
	errs = append(errs, required(id.ProxyCertFile, path.Child("proxyCertFile"), "the gate's own client certificate")...)
	errs = append(errs, required(id.ProxyKeyFile, path.Child("proxyKeyFile"), "the gate's own client key")...)
	errs = append(errs, id.RequestHeaders.validate(path.Child("requestHeaders"))...)
	errs = append(errs, id.validateMasters(path)...)
	if sa := id.ServiceAccounts; sa != nil {
		p := path.Child("serviceAccounts")
		if len(sa.Issuers) == 0 {
			errs = append(errs, field.Required(p.Child("issuers"), "the API server's --service-account-issuer"))
		}
		if len(sa.KeyFiles) == 0 {
			errs = append(errs, field.Required(p.Child("keyFiles"), "the API server's --service-account-key-file"))
		}
	}
	for i, o := range id.OIDC {
		p := path.Child("oidc").Index(i)
		errs = append(errs, required(o.ClientID, p.Child("clientID"), "the token's audience")...)
		errs = append(errs, required(o.JWKSFile, p.Child("jwksFile"), "where the issuer's keys are kept")...)
		errs = append(errs, validateHTTPS(o.IssuerURL, p.Child("issuerURL"))...)
		if o.JWKSURL != "" {
			errs = append(errs, validateHTTPS(o.JWKSURL, p.Child("jwksURL"))...)
		}
	}
	return errs
}

// validateMasters sees to it that nobody lets system:masters in by forgetting it.
func (id *GateIdentity) validateMasters(path *field.Path) field.ErrorList {
	errs := validateSwitch(id.AllowMasters, path.Child("allowMasters"))
	refused := slices.Contains(id.RefuseGroups, mastersGroup)
	switch {
	case id.AllowMasters == Disabled && !refused:
		errs = append(errs, field.Invalid(path.Child("refuseGroups"), id.RefuseGroups,
			"must contain system:masters, which no authorizer can bound, unless allowMasters: Enabled says that it may pass this lane"))
	case id.AllowMasters == Enabled && refused:
		errs = append(errs, field.Invalid(path.Child("refuseGroups"), id.RefuseGroups, "must not contain system:masters when allowMasters is Enabled"))
	}
	return errs
}

func (a *GateAdmin) validate(path *field.Path) field.ErrorList {
	errs := required(a.Socket, path.Child("socket"), "emergency actions arrive here")
	// sun_path holds 108 bytes including the terminating zero (unix(7)).
	if len(a.Socket) > 107 {
		errs = append(errs, field.TooLong(path.Child("socket"), a.Socket, 107))
	}
	if r := a.Remote; r != nil {
		p := path.Child("remote")
		errs = append(errs, validateAddress(r.Address, p.Child("address"))...)
		errs = append(errs, required(r.CertFile, p.Child("certFile"), "the serving certificate")...)
		errs = append(errs, required(r.KeyFile, p.Child("keyFile"), "the serving key")...)
		errs = append(errs, required(r.ClientCAFile, p.Child("clientCAFile"), "the CA of those who may act")...)
		if len(r.AllowedNames) == 0 {
			errs = append(errs, field.Required(p.Child("allowedNames"), "certificate common names that may act"))
		}
	}
	return errs
}

func required(value string, path *field.Path, why string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, why)}
	}
	return nil
}

func validateSwitch(s Switch, path *field.Path) field.ErrorList {
	if s != Enabled && s != Disabled {
		return field.ErrorList{field.NotSupported(path, s, []Switch{Enabled, Disabled})}
	}
	return nil
}

func validateHTTPS(value string, path *field.Path) field.ErrorList {
	if u, err := url.Parse(value); err != nil || u.Scheme != "https" || u.Host == "" {
		return field.ErrorList{field.Invalid(path, value, "must be an https:// URL")}
	}
	return nil
}

// validateAddress wants host:port with both parts written out.
func validateAddress(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "host:port")}
	}
	host, port, err := net.SplitHostPort(value)
	if err != nil || host == "" || port == "" {
		return field.ErrorList{field.Invalid(path, value, "must be host:port; write 0.0.0.0 or [::] to listen everywhere")}
	}
	return nil
}

// IsLoopback is whether host:port can be reached from this machine only.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
