package endpoints

import (
	"crypto/x509"
	"fmt"
	"strings"
)

// Names are what in-cluster clients call the API server.
func Names(clusterDomain string) []string {
	return []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}
}

// Missing are the names and addresses that a serving certificate is not good for.
func Missing(c *x509.Certificate, names []string) []string {
	var missing []string
	for _, name := range names {
		if c.VerifyHostname(name) != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// CertificateError says which names a serving certificate lacks.
func CertificateError(missing []string) error {
	return fmt.Errorf("the serving certificate is not valid for %s: in-cluster clients would refuse this gate", strings.Join(missing, ", "))
}
