package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/lab"
)

// startGate starts the gate as an operator does: its own program, a file, the shipped defaults.
func (r *rig) startGate(ctx context.Context) (err error) {
	r.gate, err = door.StartGate(ctx, r.lab, r.process(gateName, r.options.seakeep), func(*v1alpha1.GateConfiguration) {})
	if err == nil {
		r.urls[gateName] = r.gate.URL
	}
	return err
}

// process is a proxy's: with as many threads as its half of the CPUs.
func (r *rig) process(name, program string) lab.ProcessSpec {
	return lab.ProcessSpec{Name: name, Path: program, Env: []string{"GOMAXPROCS=" + strconv.Itoa(threads())}}
}

func threads() int { return max(1, runtime.NumCPU()/2) }

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

func (r *rig) startHAProxy(ctx context.Context) (err error) {
	r.urls[haproxyName], err = door.StartHAProxy(ctx, r.lab, r.process(haproxyName, ""), func(f door.HAProxyFiles) string {
		return fmt.Sprintf(haproxyConfig, threads(), f.Address, f.Certificate, r.upstream(), r.lab.CAFile())
	})
	return err
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
	address, err := door.Address(r.lab)
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
	text := fmt.Sprintf(nginxConfig, threads(), address, keys.ServingCert, r.upstream(), r.lab.CAFile(), r.dir, user, keys.ServingKey)
	if err := renameio.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing nginx's configuration: %w", err)
	}
	spec := r.process(nginxName, program)
	spec.Args = []string{"-e", "stderr", "-p", r.dir, "-c", file}
	r.urls[nginxName], err = door.Start(ctx, r.lab, address, spec)
	return err
}

// upstream is the API server's host and port.
func (r *rig) upstream() string { return strings.TrimPrefix(r.lab.APIServerURL(0), "https://") }
