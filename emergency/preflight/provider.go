package preflight

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
)

// Provider is who runs the control plane.
type Provider struct {
	Name string `json:"name"`
	// Managed is true when the user cannot set the API server's flags nor read its keys.
	Managed bool `json:"managed"`
	// Evidence is what it was recognised by.
	Evidence string `json:"evidence"`
}

// Evidence is what a control plane shows of who runs it.
type Evidence struct {
	Version     string
	Server      string // URL
	Groups      []string
	NodeLabels  []string
	ProviderIDs []string
	// ControlPlanePods is the number of API server pods seen; negative when pods could not be listed.
	ControlPlanePods int
}

// sign is one thing by which a provider is recognised.
type sign struct {
	name    string
	managed bool
	// each is looked for in one kind of evidence.
	version, host, group, label string
}

// Signs that only the provider's own control plane shows. A providerID alone is none: kubeadm on EC2 has aws:// too.
var signs = []sign{
	{name: "Amazon EKS", managed: true, version: "-eks-", host: ".eks.amazonaws.com", label: "eks.amazonaws.com/"},
	{name: "Google GKE", managed: true, version: "-gke.", host: ".gke.goog", label: "cloud.google.com/gke-"},
	{name: "Azure AKS", managed: true, host: ".azmk8s.io", label: "kubernetes.azure.com/cluster"},
	{name: "DigitalOcean DOKS", managed: true, host: ".k8s.ondigitalocean.com", label: "doks.digitalocean.com/"},
	{name: "Alibaba Cloud ACK", managed: true, version: "-aliyun."},
	{name: "OpenShift", managed: false, group: "config.openshift.io"},
	{name: "k3s", managed: false, version: "+k3s"},
	{name: "RKE2", managed: false, version: "+rke2"},
}

// recognise says who runs the control plane, and fails when nothing says so.
func recognise(e Evidence) Fact[Provider] {
	host := ""
	if u, err := url.Parse(e.Server); err == nil {
		host = strings.ToLower(u.Hostname())
	}
	for _, s := range signs {
		evidence := ""
		switch {
		case s.version != "" && strings.Contains(e.Version, s.version):
			evidence = "its version is " + e.Version
		case s.host != "" && strings.HasSuffix(host, s.host):
			evidence = "its address is " + host
		case s.group != "" && slices.Contains(e.Groups, s.group):
			evidence = "it serves the API group " + s.group
		case s.label != "":
			if i := slices.IndexFunc(e.NodeLabels, func(l string) bool { return strings.HasPrefix(l, s.label) }); i >= 0 && e.ControlPlanePods <= 0 {
				evidence = "nodes have the label " + e.NodeLabels[i]
			}
		}
		if evidence != "" {
			return Known(Provider{Name: s.name, Managed: s.managed, Evidence: evidence})
		}
	}
	switch {
	case e.ControlPlanePods > 0:
		return Known(Provider{Name: "self-managed", Evidence: "the API servers run as pods in kube-system"})
	case e.ControlPlanePods < 0:
		return Unknown[Provider]("pods in kube-system cannot be listed, and nothing else says who runs it")
	}
	scheme := ""
	if len(e.ProviderIDs) > 0 {
		scheme, _, _ = strings.Cut(e.ProviderIDs[0], "://")
	}
	why := "no API server runs as a pod in kube-system: it is managed, or started another way"
	return Unknown[Provider](why + cmp.Or(map[bool]string{true: " (nodes are " + scheme + "'s)"}[scheme != ""], ""))
}
