package v1alpha1

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KindFleet is the clusters we know.
const KindFleet = "Fleet"

// Fleet is a set of clusters, written down here or found in a hub cluster. At least one source is set; a cluster that two
// sources know must not have the same name in both.
type Fleet struct {
	TypeMeta `json:",inline"`
	// Name is the fleet's name, a DNS label.
	Name string `json:"name"`
	// Clusters are clusters by their kubeconfigs.
	Clusters []FleetCluster `json:"clusters,omitempty"`
	// Secrets are Secrets of a hub cluster that hold kubeconfigs.
	Secrets *FleetSecrets `json:"secrets,omitempty"`
	// ClusterProfiles are ClusterProfile objects of a hub cluster (multicluster.x-k8s.io/v1alpha1).
	ClusterProfiles *FleetProfiles `json:"clusterProfiles,omitempty"`
}

// FleetCluster is one cluster.
type FleetCluster struct {
	// Name is the cluster's name, a DNS label.
	Name string `json:"name"`
	// Labels are what stages select by.
	Labels map[string]string `json:"labels,omitempty"`
	// Kubeconfig is a file, Context one of its contexts; default its current one.
	Kubeconfig string `json:"kubeconfig"`
	Context    string `json:"context,omitempty"`
	// Servers are the API servers, host:port each, whose metrics are read one by one; default: the kubeconfig's server, which
	// may stand for several and then shows one of them by chance.
	Servers []string `json:"servers,omitempty"`
	// Etcd says how the members of its etcd are read, each by itself, for whether they have a leader; left out: they are not.
	Etcd *FleetEtcd `json:"etcd,omitempty"`
	// DNS are its DNS servers, IP:port each, which a rollout's analysis asks; left out: those its analysis.dns.servers name, else the
	// endpoints of the Service kube-system/kube-dns.
	DNS []string `json:"dns,omitempty"`
	// Gates are the cluster's gates, all of them, at which a change can be held back.
	Gates []FleetGate `json:"gates,omitempty"`
	// BreakGlass is the kubeconfig of another way in, used when the first does not answer while a change is taken back.
	BreakGlass string `json:"breakGlass,omitempty"`
}

// FleetEtcd is how /metrics of etcd's members is read. A certificate that etcd takes from its clients may read and write all there is
// in the cluster: a listener for metrics alone (--listen-metrics-urls) over http:// needs none.
type FleetEtcd struct {
	// Endpoints are the URLs of the members, all of them, as https://10.0.0.1:2379 or http://10.0.0.1:2381.
	Endpoints []string `json:"endpoints"`
	// CertFile and KeyFile are our own, CAFile is the authority of the members'; for https:// only.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
}

// tls is whether an endpoint is reached over TLS.
func (e *FleetEtcd) tls() bool {
	return slices.ContainsFunc(e.Endpoints, func(s string) bool { return strings.HasPrefix(s, "https://") })
}

func (e *FleetEtcd) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(e.Endpoints) == 0 {
		errs = append(errs, field.Required(path.Child("endpoints"), "the URL of each member"))
	}
	for i, endpoint := range e.Endpoints {
		p := path.Child("endpoints").Index(i)
		u, err := url.Parse(endpoint)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}):
			errs = append(errs, field.Invalid(p, endpoint, "must be http:// or https:// with a host and a port, and nothing behind it"))
		case slices.Contains(e.Endpoints[:i], endpoint):
			errs = append(errs, field.Duplicate(p, endpoint))
		}
	}
	if !e.tls() {
		for name, file := range map[string]string{"certFile": e.CertFile, "keyFile": e.KeyFile, "caFile": e.CAFile} {
			if file != "" {
				errs = append(errs, field.Forbidden(path.Child(name), "no endpoint is https://"))
			}
		}
		return errs
	}
	errs = append(errs, required(e.CertFile, path.Child("certFile"), "our certificate")...)
	errs = append(errs, required(e.KeyFile, path.Child("keyFile"), "its key")...)
	return append(errs, required(e.CAFile, path.Child("caFile"), "the authority of the members' certificates")...)
}

func (e *FleetEtcd) files(path *field.Path) []FileRef {
	if !e.tls() && e.CertFile == "" && e.KeyFile == "" && e.CAFile == "" {
		return nil
	}
	return append(keyPair(path, "certFile", e.CertFile, "keyFile", e.KeyFile, true), FileRef{Field: path.Child("caFile"), Path: e.CAFile, Use: FileCA})
}

// FleetGate is how a gate's admin endpoint is reached: by a socket on this machine, or by an address with mutual TLS.
type FleetGate struct {
	Socket string `json:"socket,omitempty"`
	// Address is host:port. ServerName is the name in its certificate, if it is not the host.
	Address    string `json:"address,omitempty"`
	ServerName string `json:"serverName,omitempty"`
	// CertFile and KeyFile are our own, CAFile is the authority of the gate's.
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
}

func (g *FleetGate) validate(path *field.Path) field.ErrorList {
	if g.Socket != "" {
		if g.Address+g.CertFile+g.KeyFile+g.CAFile+g.ServerName != "" {
			return field.ErrorList{field.Invalid(path.Child("socket"), g.Socket, "goes without address and certificates")}
		}
		return nil
	}
	errs := required(g.Address, path.Child("address"), "socket, or host:port")
	errs = append(errs, required(g.CertFile, path.Child("certFile"), "our certificate")...)
	errs = append(errs, required(g.KeyFile, path.Child("keyFile"), "its key")...)
	return append(errs, required(g.CAFile, path.Child("caFile"), "the authority of the gate's certificate")...)
}

// FleetHub is how the cluster is reached that knows the others.
type FleetHub struct {
	// Kubeconfig is a file, Context one of its contexts; default its current one. Without a file it is the hub that `rollout
	// controller` works for, by the controller's own account; other commands need one.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	Context    string `json:"context,omitempty"`
	// Namespace holds the objects.
	Namespace string `json:"namespace"`
	// LabelSelector selects them; default all.
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
}

// FleetSecrets are Secrets that hold kubeconfigs. The Secret's name is the cluster's, its labels are the cluster's.
type FleetSecrets struct {
	FleetHub `json:",inline"`
	// Key of the Secret's data; default "value", as Cluster API writes it.
	Key string `json:"key,omitempty"`
}

// FleetProfiles are ClusterProfiles. A profile says where a cluster is; its credentials are in a Secret of the hub, of the
// same namespace and name.
type FleetProfiles struct {
	FleetHub `json:",inline"`
	// Key of the Secret's data that holds the kubeconfig; default "value".
	Key string `json:"key,omitempty"`
}

// defaultKubeconfigKey is what Cluster API calls it.
const defaultKubeconfigKey = "value"

// SetDefaults implements Object.
func (f *Fleet) SetDefaults() {
	if f.Secrets != nil && f.Secrets.Key == "" {
		f.Secrets.Key = defaultKubeconfigKey
	}
	if f.ClusterProfiles != nil && f.ClusterProfiles.Key == "" {
		f.ClusterProfiles.Key = defaultKubeconfigKey
	}
}

// Validate implements Object.
func (f *Fleet) Validate() field.ErrorList {
	errs := validateLabel(f.Name, field.NewPath("name"))
	if len(f.Clusters) == 0 && f.Secrets == nil && f.ClusterProfiles == nil {
		errs = append(errs, field.Required(field.NewPath("clusters"), "a fleet needs clusters, secrets or clusterProfiles"))
	}
	seen := sets.New[string]()
	for i, c := range f.Clusters {
		p := field.NewPath("clusters").Index(i)
		errs = append(errs, validateLabel(c.Name, p.Child("name"))...)
		if seen.Has(c.Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		seen.Insert(c.Name)
		errs = append(errs, validateLabels(c.Labels, p.Child("labels"))...)
		errs = append(errs, required(c.Kubeconfig, p.Child("kubeconfig"), "the file that says how it is reached")...)
		if c.Etcd != nil {
			errs = append(errs, c.Etcd.validate(p.Child("etcd"))...)
		}
		for j, server := range c.DNS {
			errs = append(errs, validateIPPort(server, p.Child("dns").Index(j))...)
		}
		for j := range c.Gates {
			errs = append(errs, c.Gates[j].validate(p.Child("gates").Index(j))...)
		}
		for j, server := range c.Servers {
			if host, port, err := net.SplitHostPort(server); err != nil || host == "" || port == "" {
				errs = append(errs, field.Invalid(p.Child("servers").Index(j), server, "must be host:port"))
			}
		}
	}
	if f.Secrets != nil {
		errs = append(errs, f.Secrets.validate(field.NewPath("secrets"))...)
	}
	if f.ClusterProfiles != nil {
		errs = append(errs, f.ClusterProfiles.validate(field.NewPath("clusterProfiles"))...)
	}
	return errs
}

func (h *FleetHub) validate(path *field.Path) field.ErrorList {
	errs := required(h.Namespace, path.Child("namespace"), "where the objects are")
	if h.Namespace != "" {
		errs = append(errs, validateLabel(h.Namespace, path.Child("namespace"))...)
	}
	if h.Context != "" {
		errs = append(errs, required(h.Kubeconfig, path.Child("kubeconfig"), "the file that the context is in")...)
	}
	if h.LabelSelector != nil {
		errs = append(errs, validateSelector(h.LabelSelector, path.Child("labelSelector"), "leave it out for all")...)
	}
	return errs
}

// Files implements Files.
func (f *Fleet) Files() []FileRef {
	var files []FileRef
	for i, c := range f.Clusters {
		p := field.NewPath("clusters").Index(i)
		files = append(files, FileRef{Field: p.Child("kubeconfig"), Path: c.Kubeconfig, Use: FileOther})
		if c.Etcd != nil {
			files = append(files, c.Etcd.files(p.Child("etcd"))...)
		}
		for j, g := range c.Gates {
			if g.Socket == "" {
				at := p.Child("gates").Index(j)
				files = append(files, keyPair(at, "certFile", g.CertFile, "keyFile", g.KeyFile, true)...)
				files = append(files, FileRef{Field: at.Child("caFile"), Path: g.CAFile, Use: FileCA})
			}
		}
		if c.BreakGlass != "" {
			files = append(files, FileRef{Field: p.Child("breakGlass"), Path: c.BreakGlass, Use: FileOther})
		}
	}
	if f.Secrets != nil && f.Secrets.Kubeconfig != "" {
		files = append(files, FileRef{Field: field.NewPath("secrets", "kubeconfig"), Path: f.Secrets.Kubeconfig, Use: FileOther})
	}
	if f.ClusterProfiles != nil && f.ClusterProfiles.Kubeconfig != "" {
		files = append(files, FileRef{Field: field.NewPath("clusterProfiles", "kubeconfig"), Path: f.ClusterProfiles.Kubeconfig, Use: FileOther})
	}
	return files
}
