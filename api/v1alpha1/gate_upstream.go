package v1alpha1

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateUpstream is one API server.
type GateUpstream struct {
	// Name is used in metrics and messages; unique.
	Name string `json:"name"`
	// URL is https://host:port.
	URL string `json:"url"`
	// CAFile verifies the API server's certificate.
	CAFile string `json:"caFile"`
	// ServerName overrides the name verified in the certificate. Default the URL's host; with discover: EndpointSlice,
	// which finds addresses, kubernetes.default.svc, for which kubeadm's certificates are good.
	ServerName string `json:"serverName,omitempty"`
	// Discover says where the API servers come from that this entry stands for: "None" (default): it is one. "DNS": each
	// address of the URL's host is one. "EndpointSlice": each endpoint of a Service is one, read through the API servers
	// known so far, the URL's being the first. Those found last are kept in the state directory, so that a gate starts in
	// an outage; an answer without any, or with none that can be reached, changes nothing.
	Discover UpstreamDiscovery `json:"discover,omitempty"`
	// Service is the namespace/name whose EndpointSlices are read; the user seakeep:gate needs list on endpointslices in that
	// namespace. Default default/kubernetes. It must not be a Service whose endpoints are the gates themselves.
	Service string `json:"service,omitempty"`
	// Refresh is how often it is looked again. Default 10s, 1s–10m.
	Refresh *metav1.Duration `json:"refresh,omitempty"`
}

// UpstreamDiscovery is where the API servers of one entry come from.
type UpstreamDiscovery string

// The discoveries.
const (
	DiscoverNone           UpstreamDiscovery = "None"
	DiscoverDNS            UpstreamDiscovery = "DNS"
	DiscoverEndpointSlices UpstreamDiscovery = "EndpointSlice"
)

func (u *GateUpstream) setDefaults() {
	if u.Discover == "" {
		u.Discover = DiscoverNone
	}
	if u.Discover == DiscoverNone {
		return
	}
	if u.Refresh == nil {
		u.Refresh = &metav1.Duration{Duration: 10 * time.Second}
	}
	if u.Discover != DiscoverEndpointSlices {
		return
	}
	if u.Service == "" {
		u.Service = "default/kubernetes"
	}
	if u.ServerName == "" {
		u.ServerName = "kubernetes.default.svc"
	}
}

// validateDiscovery is for an entry that may stand for several API servers.
func (u *GateUpstream) validateDiscovery(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch u.Discover {
	case DiscoverNone, "":
		if u.Refresh != nil {
			errs = append(errs, field.Forbidden(path.Child("refresh"), "nothing is looked up without discover"))
		}
	case DiscoverDNS, DiscoverEndpointSlices:
		if d := u.Refresh; d != nil && (d.Duration < time.Second || d.Duration > 10*time.Minute) {
			errs = append(errs, field.Invalid(path.Child("refresh"), d.Duration.String(), "must be between 1s and 10m"))
		}
		if parsed, err := url.Parse(u.URL); err == nil && u.Discover == DiscoverDNS {
			if _, err := netip.ParseAddr(parsed.Hostname()); err == nil {
				errs = append(errs, field.Invalid(path.Child("url"), u.URL, "must have a name for a host with discover: DNS, not an address"))
			}
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("discover"), u.Discover, []UpstreamDiscovery{DiscoverNone, DiscoverDNS, DiscoverEndpointSlices}))
	}
	if u.Discover != DiscoverEndpointSlices && u.Service != "" {
		errs = append(errs, field.Forbidden(path.Child("service"), "only discover: EndpointSlice reads a Service's endpoints"))
	}
	if u.Discover == DiscoverEndpointSlices {
		namespace, name, found := strings.Cut(u.Service, "/")
		if !found || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1035Label(name)) > 0 {
			errs = append(errs, field.Invalid(path.Child("service"), u.Service, "must be the namespace/name of a Service"))
		}
	}
	return errs
}

// GateBalance says how requests and watches are spread over several API servers. Which of them may be asked needs no
// configuration: each is probed, and what requests meet counts.
type GateBalance struct {
	// WatchesPerSecond is how many open watches this gate may end in a second so that their clients open them again at an
	// API server with fewer, after one was away. Only watches with bookmarks are, which go on where they were. Default 10,
	// 1–1000. More: a server that came back gets its part sooner, by more reconnections at a time.
	WatchesPerSecond int `json:"watchesPerSecond,omitempty"`
}

func (b *GateBalance) setDefaults() {
	if b.WatchesPerSecond == 0 {
		b.WatchesPerSecond = 10
	}
}

func (b *GateBalance) validate(path *field.Path) field.ErrorList {
	if b.WatchesPerSecond < 1 || b.WatchesPerSecond > 1000 {
		return field.ErrorList{field.Invalid(path.Child("watchesPerSecond"), b.WatchesPerSecond, "must be between 1 and 1000")}
	}
	return nil
}

func validateUpstreams(upstreams []GateUpstream, path *field.Path) field.ErrorList {
	if len(upstreams) == 0 {
		return field.ErrorList{field.Required(path, "at least one API server")}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, u := range upstreams {
		p := path.Index(i)
		errs = append(errs, required(u.Name, p.Child("name"), "used in metrics and messages")...)
		if seen.Has(u.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), u.Name))
		}
		seen.Insert(u.Name)
		parsed, err := url.Parse(u.URL)
		if err != nil || parsed.Scheme != "https" || parsed.Host == "" || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" {
			errs = append(errs, field.Invalid(p.Child("url"), u.URL, "must be https://host:port without path or query"))
		}
		errs = append(errs, required(u.CAFile, p.Child("caFile"), "an API server is never spoken to unverified")...)
		errs = append(errs, u.validateDiscovery(p)...)
	}
	return errs
}
