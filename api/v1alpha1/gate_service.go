package v1alpha1

import (
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateService lets the gates stand behind the Service default/kubernetes: each renews a Lease in kube-system, and keeps the
// Service's Endpoints and EndpointSlice to the gates whose Leases are renewed. The API servers must run with
// --endpoint-reconciler-type=none, and `seakeep gate watchdog` should run beside them.
type GateService struct {
	// Address is where in-cluster clients reach this gate: an IP address that is not loopback or link-local.
	Address string `json:"address"`
	// Port is the gate's there. Default: that of listen.address. All gates must say the same.
	Port int `json:"port,omitempty"`
	// Name is this gate's among the others, unique: it names the Lease, seakeep-gate-NAME, so lower-case letters, digits
	// and dashes. Default: the host's name.
	Name string `json:"name,omitempty"`
	// Interval is how often the Lease is renewed and the endpoints are looked at. Default 2s, 500ms–1m.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// LeaseDuration is how long a gate that renews nothing stays among the endpoints, by the clock of whoever looks.
	// Default 10s, at least three intervals, at most 5m.
	LeaseDuration *metav1.Duration `json:"leaseDuration,omitempty"`
	// ClusterDomain is the cluster's DNS domain; the serving certificate must be good for kubernetes.default.svc.DOMAIN.
	// Default "cluster.local".
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// User is who the gate is to the API server when it does this; deploy/gate-endpoints has the rights. Default
	// "seakeep:gate-endpoints".
	User string `json:"user,omitempty"`
}

// DefaultServiceUser is who keeps the Service's endpoints.
const DefaultServiceUser = "seakeep:gate-endpoints"

func (s *GateService) setDefaults() {
	s.Interval = orDuration(s.Interval, 2*time.Second)
	s.LeaseDuration = orDuration(s.LeaseDuration, 10*time.Second)
	if s.ClusterDomain == "" {
		s.ClusterDomain = "cluster.local"
	}
	if s.User == "" {
		s.User = DefaultServiceUser
	}
}

func (s *GateService) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	ip, err := netip.ParseAddr(s.Address)
	switch {
	case s.Address == "":
		errs = append(errs, field.Required(path.Child("address"), "where in-cluster clients reach this gate"))
	case err != nil || ip.Zone() != "" || ip.Is4In6():
		errs = append(errs, field.Invalid(path.Child("address"), s.Address, "must be an IP address"))
	case ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsMulticast() || ip.IsUnspecified():
		errs = append(errs, field.Invalid(path.Child("address"), s.Address, "must be one that pods can reach: the API server takes no loopback or link-local address"))
	}
	if s.Port < 0 || s.Port > 65535 {
		errs = append(errs, field.Invalid(path.Child("port"), s.Port, "must be between 1 and 65535"))
	}
	if s.Name != "" && len(validation.IsDNS1123Label(s.Name)) > 0 || len(s.Name) > 50 {
		errs = append(errs, field.Invalid(path.Child("name"), s.Name, "must be lower-case letters, digits and dashes, at most 50"))
	}
	errs = append(errs, validateDomain(s.ClusterDomain, path.Child("clusterDomain"))...)
	errs = append(errs, required(s.User, path.Child("user"), "the gate is somebody to the API server")...)
	errs = append(errs, validateDuration(s.Interval, 500*time.Millisecond, time.Minute, path.Child("interval"))...)
	return append(errs, validateDuration(s.LeaseDuration, 3*s.Interval.Duration, 5*time.Minute, path.Child("leaseDuration"))...)
}
