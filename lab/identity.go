package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/internal/pki"
)

// AdminUser is the user of the Admin identity.
const AdminUser = "admin@example.com"

// Identity is who a client of the lab's API servers is, by client certificate.
type Identity struct {
	user       string
	groups     string // separated by newlines, so that identities compare
	breakGlass bool
}

var (
	// Masters is the lab's own hand: group system:masters, exempt from priority and fairness. Nobody who takes part in
	// an experiment should use it.
	Masters = User("seakeep-lab", "system:masters")
	// Admin is an engineer with an ordinary cluster-admin certificate: by RBAC, not system:masters.
	Admin = User(AdminUser)
	// BreakGlass is a break-glass credential: signed by the break-glass authority, group system:masters.
	BreakGlass = Identity{user: "break-glass", groups: "system:masters", breakGlass: true}

	controllerManager = User("system:kube-controller-manager")
	scheduler         = User("system:kube-scheduler")
	// kubelets is who KWOK is: one client in place of all kubelets. In the group system:nodes without a node's user
	// name, it gets the kubelets' priority levels, and RBAC (not the node authorizer) says what it may do.
	kubelets = User("seakeep:kwok", "system:nodes")
	// agentRunner is who fetches the agents' tokens, as each node's kubelet would.
	agentRunner = User("seakeep:agents", "system:nodes")
	dnsServer   = User("system:serviceaccount:kube-system:coredns", "system:serviceaccounts", "system:serviceaccounts:kube-system")
)

// Node is a node's kubelet, known to the node authorizer.
func Node(name string) Identity { return User("system:node:"+name, "system:nodes") }

// User is any user, with an ordinary certificate of the cluster's authority.
func User(name string, groups ...string) Identity {
	return Identity{user: name, groups: strings.Join(groups, "\n")}
}

// String returns the user's name.
func (id Identity) String() string { return id.user }

// Groups returns the identity's groups, without system:authenticated.
func (id Identity) Groups() []string {
	if id.groups == "" {
		return nil
	}
	return strings.Split(id.groups, "\n")
}

// ParseIdentity parses the command line's form: masters, admin, break-glass or node:NAME.
func ParseIdentity(s string) (Identity, error) {
	node, isNode := strings.CutPrefix(s, "node:")
	switch {
	case s == "masters":
		return Masters, nil
	case s == "admin":
		return Admin, nil
	case s == "break-glass":
		return BreakGlass, nil
	case isNode && node != "":
		return Node(node), nil
	}
	return Identity{}, fmt.Errorf("identity must be admin, masters, break-glass or node:NAME, got %q", s)
}

var unsafeInFileName = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

// fileName is unique to the identity and safe in a folder.
func (id Identity) fileName() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%t", id.user, id.groups, id.breakGlass))
	return unsafeInFileName.ReplaceAllString(id.user, "-") + "-" + hex.EncodeToString(sum[:4])
}

// ClientCert returns the files of the identity's client certificate and key, made when first asked for.
func (p *PKI) ClientCert(id Identity) (certFile, keyFile string, err error) {
	base := p.file(filepath.Join("clients", id.fileName()))
	certFile, keyFile = base+".crt", base+".key"
	if _, err := pki.LoadPair(certFile, keyFile); err == nil {
		return certFile, keyFile, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	pair, err := p.issue(id)
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		return "", "", fmt.Errorf("making folder of client certificates: %w", err)
	}
	return certFile, keyFile, pair.Write(certFile, keyFile)
}

func (p *PKI) issue(id Identity) (*pki.Pair, error) {
	ca := p.clusterCA
	if id.breakGlass {
		ca = p.breakGlassCA
	}
	return ca.Issue(pki.Spec{CommonName: id.user, Organizations: id.Groups(), Lifetime: lifetime, Client: true})
}

// RESTConfig returns a client configuration for the identity, directly to the first API server, with protobuf and
// without client-side throttling: the server's own defences are what is looked at.
func (l *Lab) RESTConfig(id Identity) *rest.Config { return l.restConfig(id, l.APIServerURL(0)) }

func (l *Lab) restConfig(id Identity, server string) *rest.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	pair, ok := l.issued[id]
	if !ok {
		var err error
		if pair, err = l.pki.issue(id); err != nil {
			panic(fmt.Sprintf("BUG: issuing a certificate in memory for %q: %v", id, err))
		}
		l.issued[id] = pair
	}
	key, err := pair.KeyPEM()
	if err != nil {
		panic(fmt.Sprintf("BUG: encoding a key of our own: %v", err))
	}
	return &rest.Config{
		Host:            server,
		TLSClientConfig: rest.TLSClientConfig{CAData: slices.Clone(l.caPEM), CertData: pair.CertPEM(), KeyData: key},
		ContentConfig: rest.ContentConfig{
			ContentType:        "application/vnd.kubernetes.protobuf",
			AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json",
		},
		QPS:       -1,
		UserAgent: "seakeep-lab",
	}
}

// WriteKubeconfig writes a kubeconfig for the identity. Empty server and caFile mean the first API server.
func (l *Lab) WriteKubeconfig(file string, id Identity, server, caFile string) error {
	if server == "" {
		server, caFile = l.APIServerURL(0), l.pki.ClusterCA
	}
	config, err := l.pki.kubeconfig(id, server, caFile)
	if err != nil {
		return err
	}
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return fmt.Errorf("writing kubeconfig: %w", err)
	}
	return nil
}

// kubeconfig names the identity's certificate files.
func (p *PKI) kubeconfig(id Identity, server, caFile string) (*clientcmdapi.Config, error) {
	certFile, keyFile, err := p.ClientCert(id)
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: caFile}
	config.AuthInfos[id.user] = &clientcmdapi.AuthInfo{ClientCertificate: certFile, ClientKey: keyFile}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: id.user}
	config.CurrentContext = "lab"
	return config, nil
}
