package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/link"
)

// The contenders, each a process of that name in the lab.
const (
	gateName    = "gate"
	haproxyName = "haproxy"
	namespace   = "bench"
	servers     = 3
)

// rig is the control plane and what stands before it.
type rig struct {
	options options
	dir     string
	say     run.Say
	lab     *lab.Lab
	etcd    []*link.Link // between API server i and its etcd member
	roots   *x509.CertPool
	token   string
	urls    map[string]string
	metrics string // the gate's
}

func newRig(ctx context.Context, o options, dir string, say run.Say) (_ *rig, err error) {
	r := &rig{options: o, dir: dir, say: say, urls: map[string]string{}}
	if r.options.seakeep, err = filepath.Abs(o.seakeep); err == nil {
		_, err = os.Stat(r.options.seakeep)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the program under test: %w", err)
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	var opening error
	say("bringing up three API servers on three etcd members")
	r.lab, err = lab.Up(ctx, lab.Options{
		Dir: filepath.Join(dir, "lab"), APIServers: servers, Etcd: servers,
		EtcdServers: func(i int, members []string) []string {
			l, err := link.To(strings.TrimPrefix(members[i], "https://"))
			if err != nil {
				opening = err
				return members
			}
			r.etcd = append(r.etcd, l)
			return []string{"https://" + l.Address()}
		},
	})
	if err = errors.Join(err, opening); err != nil {
		return nil, err
	}
	for _, kind := range []string{lab.KindKWOK, lab.KindScheduler, lab.KindControllerManager} {
		if p, ok := r.lab.Process(kind); ok {
			if err := p.Stop(ctx); err != nil {
				return nil, err
			}
		}
	}
	if r.roots, err = pki.LoadPool(r.lab.CAFile()); err != nil {
		return nil, err
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.startGate(ctx); err != nil {
		return nil, err
	}
	return r, r.startHAProxy(ctx)
}

// Close takes everything down.
func (r *rig) Close() {
	if r.lab != nil {
		if err := r.lab.Down(context.Background()); err != nil {
			r.say("taking the control plane down: %v", err)
		}
	}
	for _, l := range r.etcd {
		l.Close()
	}
}

// prepare makes the client's account.
func (r *rig) prepare(ctx context.Context) error {
	kube, err := kubernetes.NewForConfig(r.lab.RESTConfig(lab.Masters))
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	core := kube.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the client's namespace: %w", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "client"}},
	}
	if _, err := kube.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("granting the client its rights: %w", err)
	}
	if _, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "client"}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making the client's account: %w", err)
	}
	token, err := core.ServiceAccounts(namespace).CreateToken(ctx, "client", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(4 * 3600))},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making the client's token: %w", err)
	}
	r.token = token.Status.Token
	return nil
}

func (r *rig) startGate(ctx context.Context) (err error) {
	if r.metrics, err = door.Address(r.lab); err != nil {
		return err
	}
	gate, err := door.StartGate(ctx, r.lab, lab.ProcessSpec{Name: gateName, Path: r.options.seakeep}, func(config *v1alpha1.GateConfiguration) {
		config.Listen.MetricsAddress = r.metrics
		config.DefaultLimits = v1alpha1.Disabled // one client offers what many would
		config.Upstreams = nil
		for i := range servers {
			config.Upstreams = append(config.Upstreams, v1alpha1.GateUpstream{Name: fmt.Sprintf("server-%d", i), URL: r.lab.APIServerURL(i), CAFile: r.lab.CAFile()})
		}
	})
	if err == nil {
		r.urls[gateName] = gate.URL
	}
	return err
}

// haproxyConfig is what a careful team has: the server with the fewest connections, /readyz every second, out after two
// failures, back after two successes. A check that is not answered within a second has failed.
var haproxyConfig = template.Must(template.New("haproxy").Parse(`global
  nbthread 1
  maxconn 6000
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-server-options ssl-min-ver TLSv1.2
defaults
  mode http
  http-reuse always
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  timeout check 1s
frontend clients
  bind {{.Address}} ssl crt {{.Certificate}} alpn h2,http/1.1
  default_backend apiservers
backend apiservers
  balance leastconn
  option httpchk
  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost
  http-check expect status 200
  default-server ssl verify required ca-file {{.CAFile}} verifyhost localhost sni str(localhost) alpn h2,http/1.1 check check-alpn http/1.1 check-sni localhost inter 1s fastinter 500ms fall 2 rise 2
{{range $i, $server := .Servers}}  server server-{{$i}} {{$server}}
{{end}}`))

func (r *rig) startHAProxy(ctx context.Context) (err error) {
	r.urls[haproxyName], err = door.StartHAProxy(ctx, r.lab, lab.ProcessSpec{Name: haproxyName}, func(f door.HAProxyFiles) string {
		values := struct {
			Address, Certificate, CAFile string
			Servers                      []string
		}{Address: f.Address, Certificate: f.Certificate, CAFile: r.lab.CAFile()}
		for i := range servers {
			values.Servers = append(values.Servers, strings.TrimPrefix(r.lab.APIServerURL(i), "https://"))
		}
		var text strings.Builder
		if err := haproxyConfig.Execute(&text, values); err != nil {
			panic("BUG: writing HAProxy's configuration: " + err.Error())
		}
		return text.String()
	})
	return err
}

func (r *rig) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12},
	}}
}
