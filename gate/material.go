package gate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/pki"
)

// material is what the configuration's files hold.
type material struct {
	serving *tls.Certificate
	clients *x509.CertPool
}

// loadMaterial reads and checks the certificates and keys, and reports every one that cannot be used.
func loadMaterial(cfg *v1alpha1.GateConfiguration, doc *config.Document) (*material, error) {
	m := &material{}
	var errs []error
	note := func(path *field.Path, file string, err error) {
		if err != nil {
			errs = append(errs, doc.Errorf(path, file, err.Error()))
		}
	}
	listenPath, identityPath := field.NewPath("listen"), field.NewPath("identity")
	serving, err := keyPair(cfg.Listen.CertFile, cfg.Listen.KeyFile)
	note(listenPath.Child("certFile"), cfg.Listen.CertFile, err)
	m.serving = serving
	_, err = keyPair(cfg.Identity.ProxyCertFile, cfg.Identity.ProxyKeyFile)
	note(identityPath.Child("proxyCertFile"), cfg.Identity.ProxyCertFile, err)
	note(identityPath.Child("proxyKeyFile"), cfg.Identity.ProxyKeyFile, ownerOnly(cfg.Identity.ProxyKeyFile))
	m.clients, err = pki.LoadPool(cfg.Identity.ClientCAFile)
	note(identityPath.Child("clientCAFile"), cfg.Identity.ClientCAFile, err)
	return m, config.Join(errs...)
}

// keyPair reads a certificate and its key and refuses one that is not valid now.
func keyPair(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	leaf, now := pair.Leaf, time.Now()
	if now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate expired on %s", leaf.NotAfter.Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		return nil, fmt.Errorf("the certificate is not valid before %s", leaf.NotBefore.Format(time.RFC3339))
	}
	return &pair, nil
}

// ownerOnly refuses a key that others may read: whoever holds the front-proxy key can be any user.
func ownerOnly(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("must be readable by its owner only, its mode is %04o; run chmod 600", mode)
	}
	return nil
}
