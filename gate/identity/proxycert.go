package identity

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// aggregatorNames are common names under which API servers themselves speak to aggregated API servers: kubeadm's and
// k0s', kube-up's, k3s', RKE's, OpenShift's.
var aggregatorNames = []string{
	"front-proxy-client", "aggregator", "system:auth-proxy", "kube-apiserver-proxy-client", "system:openshift-aggregator",
}

// ProxyCertificateWarnings says what makes the theft of the gate's own client key worse than it need be. Whoever has a
// front-proxy key can be any user, so its certificate should be good for that on this control plane's API servers and
// for nothing else.
func ProxyCertificateWarnings(c *x509.Certificate, mode v1alpha1.IdentityMode, clients *x509.CertPool, now time.Time) []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if mode == v1alpha1.Impersonation {
		if slices.Contains(c.Subject.Organization, "system:masters") {
			warn("the gate's certificate is of group system:masters: give it only the right to impersonate, or its theft takes the whole cluster")
		}
		return warnings
	}
	name := c.Subject.CommonName
	switch {
	case name == "":
		warn("the front-proxy certificate has no common name: --requestheader-allowed-names cannot name it, and an empty list lets in every certificate of the front-proxy CA")
	case slices.Contains(aggregatorNames, name):
		warn("the front-proxy certificate's name %q is one that API servers use towards aggregated API servers: those would believe the gate too; "+
			"issue one with a name of its own and add that to --requestheader-allowed-names", name)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: clients, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, CurrentTime: now}); err == nil {
		warn("the front-proxy certificate %q is signed by an authority of client certificates (identity.clientCAFile): "+
			"the front-proxy CA must be another one, or every client certificate with an allowed name can be any user", name)
	}
	if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) && len(c.ExtKeyUsage) > 0 {
		warn("the front-proxy certificate %q is not for client authentication: API servers will refuse it", name)
	}
	if slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		warn("the front-proxy certificate %q is also good for serving: whoever steals it can pass for a server of that authority", name)
	}
	return warnings
}
