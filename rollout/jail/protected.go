package jail

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What a cluster loses its network, its names or its disks with. It is known by what it is called, in the names that its own
// manifests give it, and by what it does.
var (
	// protectedNamespaces are where clusters keep such agents; kube-system's service accounts are the network, DNS and storage.
	protectedNamespaces = []string{"kube-system", "calico-system", "tigera-operator", "cilium", "kube-flannel", "kube-router", "antrea-system", "longhorn-system", "rook-ceph", "openebs", "metallb-system", "istio-cni", "linkerd-cni", "submariner-operator", "weave", "kube-ovn", "multus"}
	// protectedNames are globs over the workload's name.
	protectedNames = []string{
		"kube-proxy*", "coredns*", "kube-dns*", "node-local-dns*", "nodelocaldns*", "seakeep-dns*",
		"calico-*", "canal*", "cilium*", "kube-flannel*", "flannel*", "weave-net*", "antrea-agent*", "kube-router*", "aws-node*", "azure-cni*", "azure-cns*", "azure-ip-masq*", "ip-masq-agent*", "netd*", "ovnkube*", "ovs-*", "kube-ovn*", "multus*", "kube-multus*", "istio-cni*", "linkerd-cni*", "whereabouts*", "egress-gateway*", "konnectivity-agent*",
		"*csi*", "*-csi-node*", "ebs-csi*", "efs-csi*", "longhorn-*", "csi-*", "rook-ceph-*", "openebs-*", "gce-pd-*", "node-driver-registrar*",
	}
	// protectedImages are globs over the last part of an image's name, for what was renamed.
	protectedImages = []string{"kube-proxy", "coredns", "k8s-dns-*", "flannel*", "cilium", "calico-node", "node", "antrea-agent*", "kube-router", "amazon-k8s-cni", "csi-node-driver-registrar", "livenessprobe"}
	// protectedPaths are directories of a node that only such agents mount.
	protectedPaths = []string{"/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry", "/run/xtables.lock"}
)

// Protected says why a workload is never jailed, throttled or cut without a human; "" when it may be. An agent of the network
// that is cut off from the API server keeps what it has, until something changes: then new pods have no network. What is not on
// the list and runs on the host's network with the highest priority is taken for one as well.
func Protected(namespace, name string, pod corev1.PodSpec) string {
	const never = "and the network, DNS and storage are never cut off by themselves"
	if slices.Contains(protectedNamespaces, namespace) {
		return fmt.Sprintf("it runs in %s, %s", namespace, never)
	}
	if pattern := matching(protectedNames, name); pattern != "" {
		return fmt.Sprintf("it is called like %s, %s", pattern, never)
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		image := c.Image
		if at := strings.IndexByte(image, '@'); at >= 0 {
			image = image[:at]
		}
		base := path.Base(image)
		if colon := strings.IndexByte(base, ':'); colon >= 0 {
			base = base[:colon]
		}
		// "node" alone is Calico's image, and many an exporter's: the whole name decides.
		if base == "node" && !strings.Contains(image, "calico/node") {
			continue
		}
		if pattern := matching(protectedImages, base); pattern != "" {
			return fmt.Sprintf("it runs the image %s, %s", c.Image, never)
		}
	}
	for _, v := range pod.Volumes {
		if v.HostPath == nil {
			continue
		}
		for _, p := range protectedPaths {
			if v.HostPath.Path == p || strings.HasPrefix(v.HostPath.Path, p+"/") {
				return fmt.Sprintf("it mounts %s of its node, %s", v.HostPath.Path, never)
			}
		}
	}
	if pod.HostNetwork && (pod.PriorityClassName == "system-node-critical" || pod.PriorityClassName == "system-cluster-critical") {
		return fmt.Sprintf("it is %s on the host's network, %s", pod.PriorityClassName, never)
	}
	return ""
}

func matching(patterns []string, name string) string {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return p
		}
	}
	return ""
}
