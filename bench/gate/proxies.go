package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/lab"
)

// startGate starts the gate as an operator does: its own program, a file, the shipped defaults.
func (r *rig) startGate(ctx context.Context) error {
	address, err := r.address()
	if err != nil {
		return err
	}
	dir := filepath.Join(r.dir, gateName)
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
		Admin:    v1alpha1.GateAdmin{Socket: r.socket},
		StateDir: filepath.Join(dir, "state"),
	})
	if err != nil {
		return fmt.Errorf("encoding the gate's configuration: %w", err)
	}
	if err := renameio.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("writing the gate's configuration: %w", err)
	}
	return r.start(ctx, gateName, address, r.options.seakeep, "gate", "--config", file)
}

// haproxyConfig is a plain HTTP-mode load balancer. A thread a CPU, as its default is; streams may last, as watches do.
const haproxyConfig = `global
  nbthread %[1]d
  maxconn 6000
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-server-options ssl-min-ver TLSv1.2
  tune.h2.max-concurrent-streams 250
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout http-request 30s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind %[2]s ssl crt %[3]s alpn h2,http/1.1
  default_backend apiservers
backend apiservers
  server apiserver %[4]s ssl verify required ca-file %[5]s verifyhost localhost sni str(localhost) alpn h2,http/1.1 pool-max-conn -1
`

func (r *rig) startHAProxy(ctx context.Context) error {
	address, err := r.address()
	if err != nil {
		return err
	}
	program, err := baseline.HAProxy.Find()
	if err != nil {
		return err
	}
	keys := r.lab.PKI()
	certificate, err := os.ReadFile(keys.ServingCert)
	if err != nil {
		return fmt.Errorf("reading the serving certificate: %w", err)
	}
	key, err := os.ReadFile(keys.ServingKey)
	if err != nil {
		return fmt.Errorf("reading the serving key: %w", err)
	}
	both := filepath.Join(r.dir, "haproxy.pem")
	if err := renameio.WriteFile(both, bytes.Join([][]byte{certificate, key}, nil), 0o600); err != nil {
		return fmt.Errorf("writing HAProxy's certificate: %w", err)
	}
	file := filepath.Join(r.dir, "haproxy.cfg")
	text := fmt.Sprintf(haproxyConfig, max(1, runtime.NumCPU()/2), address, both, r.upstream(), r.lab.CAFile())
	if err := renameio.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing HAProxy's configuration: %w", err)
	}
	return r.start(ctx, haproxyName, address, program, "-db", "-f", file)
}

// nginxConfig passes answers on as they come (proxy_buffering off), because a watch that is buffered is no watch.
const nginxConfig = `daemon off;
pid %[6]s/nginx.pid;
error_log stderr error;
user %[7]s;
worker_processes %[1]d;
events { worker_connections 6000; }
http {
  access_log off;
  client_body_temp_path %[6]s/nginx-body;
  proxy_temp_path %[6]s/nginx-proxy;
  fastcgi_temp_path %[6]s/nginx-fastcgi;
  uwsgi_temp_path %[6]s/nginx-uwsgi;
  scgi_temp_path %[6]s/nginx-scgi;
  client_max_body_size 8m;
  keepalive_requests 1000000;
  http2_max_concurrent_streams 250;
  tcp_nodelay on;
  upstream apiservers {
    server %[4]s;
    keepalive 64;
    keepalive_requests 1000000;
  }
  server {
    listen %[2]s ssl http2;
    ssl_certificate %[3]s;
    ssl_certificate_key %[8]s;
    ssl_protocols TLSv1.2 TLSv1.3;
    location / {
      proxy_pass https://apiservers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_ssl_verify on;
      proxy_ssl_trusted_certificate %[5]s;
      proxy_ssl_name localhost;
      proxy_ssl_server_name on;
    }
  }
}
`

func (r *rig) startNginx(ctx context.Context) error {
	address, err := r.address()
	if err != nil {
		return err
	}
	program, err := baseline.Nginx.Find()
	if err != nil {
		return err
	}
	keys := r.lab.PKI()
	user := "root" // whose the folder is; without root the directive is ignored
	file := filepath.Join(r.dir, "nginx.conf")
	text := fmt.Sprintf(nginxConfig, max(1, runtime.NumCPU()/2), address, keys.ServingCert, r.upstream(), r.lab.CAFile(), r.dir, user, keys.ServingKey)
	if err := renameio.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing nginx's configuration: %w", err)
	}
	return r.start(ctx, nginxName, address, program, "-e", "stderr", "-p", r.dir, "-c", file)
}

// upstream is the API server's host and port.
func (r *rig) upstream() string { return strings.TrimPrefix(r.lab.APIServerURL(0), "https://") }

func (r *rig) start(ctx context.Context, name, address, program string, args ...string) error {
	url := "https://" + address
	_, err := r.lab.Run(ctx, lab.ProcessSpec{
		Name: name, Path: program, Args: args, Ready: r.answers(url),
		Env: []string{"GOMAXPROCS=" + strconv.Itoa(max(1, runtime.NumCPU()/2))},
	})
	if err != nil {
		return err
	}
	r.urls[name] = url
	return nil
}
