package v1alpha1

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// KindBreakGlassConfiguration configures one break-glass lane.
const KindBreakGlassConfiguration = "BreakGlassConfiguration"

// BreakGlassConfiguration is what `seakeep break-glass serve --config` reads: everything the lane needs, as files on
// this host, because the lane is for the day nothing else answers. The files it names (certificates, CA, denied
// serials) are read again when they change; the document itself is read once.
type BreakGlassConfiguration struct {
	TypeMeta `json:",inline"`
	// Listen is where engineers connect.
	Listen BreakGlassListen `json:"listen"`
	// Upstreams are the API servers, each written out. The lane probes them; of those alike the first of the list is
	// taken, and when one cannot be reached the next is tried.
	Upstreams []GateUpstream `json:"upstreams"`
	// Identity is the lane's own certificate for the API servers.
	Identity BreakGlassIdentity `json:"identity"`
	// StandardGates are the admin sockets of the standard gates on this host, which the lane asks to make way when
	// the API server is too slow for it. Empty: the lane squeezes nobody. A socket that is not there is ignored:
	// the lane never depends on the standard gate.
	StandardGates []string `json:"standardGates,omitempty"`
	// SqueezeAfter is how long a request waits for the API server's answer before the standard gates are asked to
	// make way. Default 500ms, 10ms–1m. Lower: squeezes also for requests that are merely large.
	SqueezeAfter *metav1.Duration `json:"squeezeAfter,omitempty"`
	// AuditFile is the append-only, hash-chained record of every request.
	AuditFile string `json:"auditFile"`
	// MetricsAddress serves /metrics, /healthz and /readyz in plain HTTP, on loopback only. Empty: no such listener.
	MetricsAddress string `json:"metricsAddress,omitempty"`
	// MemoryLimit is the soft limit of the process's heap (GOMEMLIMIT, which wins when it is set) and, in a cgroup of
	// the lane's own, the memory reserved for it. Default 256Mi, at least 64Mi.
	MemoryLimit *resource.Quantity `json:"memoryLimit,omitempty"`
	// MaxConnections bounds open connections. When they are all taken, one that has not authenticated yet is closed
	// for the newcomer, so that strangers cannot fill the lane. Default 256, 8–65536; about 100 kB each.
	MaxConnections int `json:"maxConnections,omitempty"`
}

// BreakGlassListen is the lane's own listener. A client without a certificate of ClientCAFile does not get past the
// handshake.
type BreakGlassListen struct {
	// Address is host:port; an empty host is refused, so that listening everywhere is always written out.
	Address string `json:"address"`
	// CertFile and KeyFile are the serving certificate, reloaded when they change.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// ClientCAFile is the break-glass CA, and no other: whoever holds a certificate of it is believed, system:masters
	// included. Made by `seakeep break-glass init`.
	ClientCAFile string `json:"clientCAFile"`
	// DeniedSerialsFile lists the serial numbers of revoked certificates in hexadecimal, one a line, # for comments.
	// Read again when it changes; open requests of a certificate that appears in it end.
	DeniedSerialsFile string `json:"deniedSerialsFile,omitempty"`
}

// BreakGlassIdentity is the front-proxy certificate with which the lane passes on who is calling. It should be one of
// its own, not the standard gate's, so that either can be replaced alone.
type BreakGlassIdentity struct {
	ProxyCertFile string `json:"proxyCertFile"`
	// ProxyKeyFile must be readable by its owner only.
	ProxyKeyFile string `json:"proxyKeyFile"`
	// RequestHeaders are the names of the headers that carry an identity, for API servers whose flags rename them.
	RequestHeaders RequestHeaders `json:"requestHeaders,omitempty"`
}

// minMemoryLimit is what a lane with a few watches needs; below it the garbage collector would run all the time.
const minMemoryLimit = 64 << 20

// SetDefaults implements Object.
func (c *BreakGlassConfiguration) SetDefaults() {
	if c.SqueezeAfter == nil {
		c.SqueezeAfter = &metav1.Duration{Duration: 500 * time.Millisecond}
	}
	if c.MemoryLimit == nil {
		limit := resource.MustParse("256Mi")
		c.MemoryLimit = &limit
	}
	c.Identity.RequestHeaders.setDefaults()
	if c.MaxConnections == 0 {
		c.MaxConnections = 256
	}
}

// Validate implements Object.
func (c *BreakGlassConfiguration) Validate() field.ErrorList {
	errs := c.Listen.validate(field.NewPath("listen"))
	errs = append(errs, validateUpstreams(c.Upstreams, field.NewPath("upstreams"))...)
	for i, u := range c.Upstreams {
		if u.Discover != "" && u.Discover != DiscoverNone {
			errs = append(errs, field.Forbidden(field.NewPath("upstreams").Index(i).Child("discover"), "the lane depends on no name service and no API server: write each API server out"))
		}
	}
	identity := field.NewPath("identity")
	errs = append(errs, required(c.Identity.ProxyCertFile, identity.Child("proxyCertFile"), "the lane's front-proxy certificate")...)
	errs = append(errs, required(c.Identity.ProxyKeyFile, identity.Child("proxyKeyFile"), "the lane's front-proxy key")...)
	errs = append(errs, c.Identity.RequestHeaders.validate(identity.Child("requestHeaders"))...)
	errs = append(errs, c.validateStandardGates(field.NewPath("standardGates"))...)
	if d := c.SqueezeAfter.Duration; d < 10*time.Millisecond || d > time.Minute {
		errs = append(errs, field.Invalid(field.NewPath("squeezeAfter"), d.String(), "must be between 10ms and 1m"))
	}
	errs = append(errs, required(c.AuditFile, field.NewPath("auditFile"), "what is done through the lane is always recorded")...)
	if c.MetricsAddress != "" {
		path := field.NewPath("metricsAddress")
		errs = append(errs, validateAddress(c.MetricsAddress, path)...)
		if !IsLoopback(c.MetricsAddress) {
			errs = append(errs, field.Invalid(path, c.MetricsAddress, "must be a loopback address: metrics are served without authentication"))
		}
		if c.MetricsAddress == c.Listen.Address {
			errs = append(errs, field.Invalid(path, c.MetricsAddress, "must differ from listen.address"))
		}
	}
	if c.MemoryLimit.Value() < minMemoryLimit {
		errs = append(errs, field.Invalid(field.NewPath("memoryLimit"), c.MemoryLimit.String(), "must be at least 64Mi"))
	}
	if n := c.MaxConnections; n < 8 || n > 65536 {
		errs = append(errs, field.Invalid(field.NewPath("maxConnections"), n, "must be between 8 and 65536"))
	}
	return errs
}

func (l *BreakGlassListen) validate(path *field.Path) field.ErrorList {
	errs := validateAddress(l.Address, path.Child("address"))
	errs = append(errs, required(l.CertFile, path.Child("certFile"), "the serving certificate")...)
	errs = append(errs, required(l.KeyFile, path.Child("keyFile"), "the serving key")...)
	errs = append(errs, required(l.ClientCAFile, path.Child("clientCAFile"), "the break-glass CA; only its certificates are heard")...)
	return errs
}

func (c *BreakGlassConfiguration) validateStandardGates(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, socket := range c.StandardGates {
		p := path.Index(i)
		errs = append(errs, required(socket, p, "the path of a gate's admin socket")...)
		if len(socket) > 107 { // sun_path, unix(7)
			errs = append(errs, field.TooLong(p, socket, 107))
		}
		if seen.Has(socket) {
			errs = append(errs, field.Duplicate(p, socket))
		}
		seen.Insert(socket)
	}
	return errs
}
