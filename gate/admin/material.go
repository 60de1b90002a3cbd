package admin

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// material is the remote listener's keys, as last read.
type material struct {
	files *v1alpha1.GateAdminRemote
	log   *slog.Logger

	mu   sync.Mutex
	good *tls.Config
}

func newMaterial(files *v1alpha1.GateAdminRemote, log *slog.Logger) (*material, error) {
	m := &material{files: files, log: log}
	config, err := m.read()
	if err != nil {
		return nil, err
	}
	m.good = config
	return m, nil
}

// config implements tls.Config's GetConfigForClient.
func (m *material) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	config, err := m.read()
	if err != nil {
		m.log.Warn("The remote admin endpoint keeps its certificate: the file cannot be used", "reason", err)
		return m.good, nil
	}
	m.good = config
	return config, nil
}

func (m *material) read() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(m.files.CertFile, m.files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the serving certificate: %w", err)
	}
	clients, err := pki.LoadPool(m.files.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client CA: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"http/1.1"},
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	}, nil
}
