package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/lab"
)

// startGate starts the gate as an operator does: its own program and a file. Its limits are off, because what is measured
// is what sharing does by itself.
func (r *rig) startGate(ctx context.Context) error {
	address, err := r.address()
	if err != nil {
		return err
	}
	dir := filepath.Join(r.lab.Dir(), gateName)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		return fmt.Errorf("making the gate's folder: %w", err)
	}
	keys := r.lab.PKI()
	r.socket = filepath.Join(dir, "admin.sock")
	file := filepath.Join(dir, "gate.yaml")
	data, err := yaml.Marshal(v1alpha1.GateConfiguration{
		TypeMeta:  v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindGateConfiguration},
		Listen:    v1alpha1.GateListen{Address: address, CertFile: keys.ServingCert, KeyFile: keys.ServingKey},
		Upstreams: []v1alpha1.GateUpstream{{Name: "kube-apiserver", URL: r.lab.APIServerURL(0), CAFile: r.lab.CAFile()}},
		Identity: v1alpha1.GateIdentity{
			ClientCAFile: keys.ClusterCA, ProxyCertFile: keys.FrontProxyCert, ProxyKeyFile: keys.FrontProxyKey,
			ServiceAccounts: &v1alpha1.ServiceAccountKeys{Issuers: []string{lab.ServiceAccountIssuer}, KeyFiles: []string{keys.ServiceAccountKey}},
		},
		DefaultLimits: v1alpha1.Disabled,
		Relay:         &v1alpha1.GateRelay{Rules: []v1alpha1.RelayRule{{Resources: []string{"pods", "configmaps"}}}},
		Admin:         v1alpha1.GateAdmin{Socket: r.socket},
		StateDir:      filepath.Join(dir, "state"),
	})
	if err != nil {
		return fmt.Errorf("encoding the gate's configuration: %w", err)
	}
	if err := renameio.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("writing the gate's configuration: %w", err)
	}
	return r.start(ctx, gateName, address, r.options.seakeep, "gate", "--config", file)
}

func (r *rig) startNaive(ctx context.Context) error {
	address, err := r.address()
	if err != nil {
		return err
	}
	keys := r.lab.PKI()
	return r.start(ctx, naiveName, address, r.options.naive,
		"-listen", address, "-cert", keys.ServingCert, "-key", keys.ServingKey, "-upstream", r.lab.APIServerURL(0), "-ca", r.lab.CAFile())
}

func (r *rig) start(ctx context.Context, name, address, program string, args ...string) error {
	url := "https://" + address
	if _, err := r.lab.Run(ctx, lab.ProcessSpec{Name: name, Path: program, Args: args, Ready: r.answers(url)}); err != nil {
		return err
	}
	r.urls[name] = url
	return nil
}

// address is a free loopback address.
func (r *rig) address() (string, error) {
	port, err := r.lab.NextPort()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
}

// answers waits until the API server answers through a proxy.
func (r *rig) answers(url string) func(context.Context) error {
	client := &http.Client{Transport: r.transport(true)}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		switch {
		case response.StatusCode != http.StatusOK:
			return errors.New("not ready: " + response.Status)
		case response.ProtoMajor != 2:
			return errors.New("it does not speak HTTP/2")
		}
		return nil
	}
}

// transport has an HTTP/2 connection of its own.
func (r *rig) transport(once bool) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: once, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12},
	}
}
