package credentials

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/google/renameio/v2"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// The contexts of a kubeconfig made here.
const (
	// LaneContext goes through the break-glass lane.
	LaneContext = "break-glass"
	// DirectContext goes to the first API server, past the lane; further ones are direct-2, direct-3, …
	DirectContext = "direct"
)

// Server is one address a credential is for.
type Server struct {
	// URL is https://host:port.
	URL string
	// CA, PEM, verifies it.
	CA []byte
}

// Kubeconfig renders a self-contained kubeconfig: the first server is the lane, the others are API servers. keyFile
// names the key when the credential was made from a CSR.
func Kubeconfig(credential *Credential, servers []Server, keyFile string) ([]byte, error) {
	if len(servers) == 0 {
		return nil, errors.New("at least one server: the lane's URL")
	}
	if len(credential.KeyPEM) == 0 && keyFile == "" {
		return nil, errors.New("a credential made from a CSR needs the path of its key")
	}
	config := clientcmdapi.NewConfig()
	user := credential.Certificate.Subject.CommonName
	auth := clientcmdapi.NewAuthInfo()
	auth.ClientCertificateData = credential.CertificatePEM
	if len(credential.KeyPEM) > 0 {
		auth.ClientKeyData = credential.KeyPEM
	} else {
		auth.ClientKey = keyFile
	}
	config.AuthInfos[user] = auth
	for i, server := range servers {
		if err := server.validate(); err != nil {
			return nil, err
		}
		name := contextName(i)
		cluster := clientcmdapi.NewCluster()
		cluster.Server = server.URL
		cluster.CertificateAuthorityData = server.CA
		config.Clusters[name] = cluster
		context := clientcmdapi.NewContext()
		context.Cluster, context.AuthInfo = name, user
		config.Contexts[name] = context
	}
	config.CurrentContext = LaneContext
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encoding the kubeconfig: %w", err)
	}
	return data, nil
}

func contextName(i int) string {
	switch i {
	case 0:
		return LaneContext
	case 1:
		return DirectContext
	default:
		return DirectContext + "-" + strconv.Itoa(i)
	}
}

func (s *Server) validate() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("server %q must be https://host:port", s.URL)
	}
	block, _ := pem.Decode(s.CA)
	if block == nil || !x509.NewCertPool().AppendCertsFromPEM(s.CA) {
		return fmt.Errorf("the CA of server %s holds no certificate", s.URL)
	}
	if bytes.Contains(s.CA, []byte("PRIVATE KEY")) {
		return fmt.Errorf("the CA of server %s holds a private key: name the certificate only", s.URL)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig that only its owner can read. An existing file is kept unless replace is set.
func WriteKubeconfig(path string, data []byte, replace bool) error {
	if !replace {
		return writeNew(path, data, 0o600)
	}
	if err := renameio.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return nil
}
