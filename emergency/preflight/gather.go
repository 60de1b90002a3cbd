package preflight

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/signals"
)

// Options say what to look at.
type Options struct {
	// Config is the kubeconfig's. Nothing is done with it but GET, LIST, reviews of its own user, and one dry run.
	Config *rest.Config
	// Etcd are client URLs, EtcdTLS their credentials; none: etcd is not looked at.
	Etcd    []string
	EtcdTLS *tls.Config
	// BreakGlassCA is the certificate of a break-glass CA to look for; nil: it is not looked for.
	BreakGlassCA *x509.Certificate
	// SelfManaged is the user's word that he starts the API servers himself. What the control plane shows outweighs it.
	SelfManaged bool
	// Timeout bounds each request.
	Timeout time.Duration
	Now     func() time.Time
}

// ErrUnreachable is returned by Gather when the API server does not answer at all: every fact would be unknown.
var ErrUnreachable = errors.New("the API server does not answer")

// maxAnswer bounds an answer that is read whole.
const maxAnswer = 4 << 20

// gatherer asks one API server.
type gatherer struct {
	opts   Options
	client kubernetes.Interface
	http   *http.Client
	facts  *Facts
}

// Gather reads the facts. It changes nothing on the cluster. An error means that the server cannot be asked; what it does
// not say is unknown in the facts.
func Gather(ctx context.Context, opts Options) (*Facts, error) {
	config := rest.CopyConfig(opts.Config)
	config.Timeout = opts.Timeout
	config.QPS, config.Burst = 20, 40 // this may be run while the control plane is in trouble
	config.ContentConfig = rest.ContentConfig{ContentType: "application/json"}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call %s: %w", config.Host, err)
	}
	defer utilnet.CloseIdleConnectionsFor(httpClient.Transport)
	client, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("preparing to call %s: %w", config.Host, err)
	}
	g := &gatherer{opts: opts, client: client, http: httpClient, facts: &Facts{Server: config.Host, Taken: opts.Now()}}
	if err := g.version(ctx); err != nil {
		return nil, err
	}
	g.handshake(ctx)
	g.user(ctx)
	g.tokens(ctx)
	g.anonymous(ctx)
	g.metrics(ctx)
	g.authentication(ctx)
	g.rights(ctx)
	g.cluster(ctx)
	g.facts.Etcd = gatherEtcd(ctx, opts)
	return g.facts, ctx.Err()
}

// raw reads a path and returns the answer's headers too.
func (g *gatherer) raw(ctx context.Context, path string) (body []byte, header http.Header, err error) {
	return get(ctx, g.http, strings.TrimSuffix(g.opts.Config.Host, "/")+path)
}

func get(ctx context.Context, client *http.Client, at string) (body []byte, header http.Header, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, response.Header, &codeError{code: response.StatusCode}
	}
	return body, response.Header, nil
}

// codeError is an answer that is not 200.
type codeError struct{ code int }

// Error implements error.
func (e *codeError) Error() string {
	return fmt.Sprintf("it answers %d %s", e.code, http.StatusText(e.code))
}

// why says why something is unknown, in as few words as are true.
func why(what string, err error) string {
	var code *codeError
	if apierrors.IsForbidden(err) || errors.As(err, &code) && code.code == http.StatusForbidden {
		return "this user may not read " + what
	}
	if apierrors.IsNotFound(err) || errors.As(err, &code) && code.code == http.StatusNotFound {
		return "there is no " + what
	}
	return fmt.Sprintf("reading %s: %v", what, err)
}

func (g *gatherer) version(ctx context.Context) error {
	body, header, err := g.raw(ctx, "/version")
	var code *codeError
	switch {
	case errors.As(err, &code) && code.code == http.StatusUnauthorized:
		return fmt.Errorf("%s does not know this kubeconfig's credentials: %w", g.facts.Server, err)
	case errors.As(err, &code):
		g.facts.Version = Unknown[string](why("/version", err))
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, g.facts.Server, err)
	default:
		var info version.Info
		if err := json.Unmarshal(body, &info); err != nil || info.GitVersion == "" {
			return fmt.Errorf("%w: %s answers /version with %.80q", ErrUnreachable, g.facts.Server, body)
		}
		g.facts.Version = Known(info.GitVersion)
	}
	g.facts.PriorityAndFairness = g.priorityAndFairness(ctx, header)
	return nil
}

// priorityAndFairness looks at a header that the filter puts on every answer.
func (g *gatherer) priorityAndFairness(ctx context.Context, header http.Header) Fact[PriorityAndFairness] {
	state := PriorityAndFairness{On: header.Get("X-Kubernetes-Pf-Flowschema-Uid") != "", Versions: []string{}}
	body, _, err := g.raw(ctx, "/apis/flowcontrol.apiserver.k8s.io")
	var code *codeError
	if errors.As(err, &code) && code.code == http.StatusNotFound {
		return Known(state)
	}
	if err != nil {
		return Unknown[PriorityAndFairness](why("the API group flowcontrol.apiserver.k8s.io", err))
	}
	var group struct {
		Versions []struct {
			Version string `json:"version"`
		} `json:"versions"`
	}
	if err := json.Unmarshal(body, &group); err != nil {
		return Unknown[PriorityAndFairness](why("the API group flowcontrol.apiserver.k8s.io", err))
	}
	for _, v := range group.Versions {
		state.Versions = append(state.Versions, v.Version)
	}
	return Known(state)
}

// handshake looks at the serving certificate, and at the kubeconfig's own.
func (g *gatherer) handshake(ctx context.Context) {
	g.facts.Client = Unknown[Certificate]("the kubeconfig has no client certificate")
	config, err := rest.TLSConfigFor(g.opts.Config)
	if err != nil {
		g.facts.Serving = Unknown[Certificate](why("the kubeconfig's certificates", err))
		return
	}
	if config == nil {
		config = &tls.Config{}
	}
	if config.GetClientCertificate != nil {
		if pair, err := config.GetClientCertificate(nil); err == nil && pair != nil && len(pair.Certificate) > 0 {
			if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil {
				g.facts.Client = Known(describe(leaf))
			}
		}
	}
	host, err := addressOf(g.opts.Config.Host)
	if err != nil {
		g.facts.Serving = Unknown[Certificate](err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.opts.Timeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", host)
	if err != nil {
		// Through a proxy of the kubeconfig's, for one; requests went well.
		g.facts.Serving = Unknown[Certificate](fmt.Sprintf("no handshake with %s: %v", host, err))
		return
	}
	defer conn.Close()
	g.facts.Serving = Known(describe(conn.(*tls.Conn).ConnectionState().PeerCertificates[0]))
}

func addressOf(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" {
		return "", fmt.Errorf("%q is no https://host:port", server)
	}
	if u.Port() != "" {
		return u.Host, nil
	}
	return net.JoinHostPort(u.Hostname(), "443"), nil
}

// tokens reads what the API server publishes for those who verify ServiceAccount tokens.
func (g *gatherer) tokens(ctx context.Context) {
	const discovery, keys = "/.well-known/openid-configuration", "/openid/v1/jwks"
	var provider struct {
		Issuer string `json:"issuer"`
	}
	body, _, err := g.raw(ctx, discovery)
	if err == nil {
		err = json.Unmarshal(body, &provider)
	}
	if err == nil && provider.Issuer == "" {
		err = errors.New("it names no issuer")
	}
	g.facts.Issuer = Known(provider.Issuer)
	if err != nil {
		g.facts.Issuer = Unknown[string](why(discovery, err))
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	body, _, err = g.raw(ctx, keys)
	if err == nil {
		err = json.Unmarshal(body, &set)
	}
	g.facts.Keys = Known(len(set.Keys))
	if err != nil {
		g.facts.Keys = Unknown[int](why(keys, err))
	}
}

// anonymous asks without credentials for a path that nobody may read without: 403 says that the request had an identity,
// that of system:anonymous; 401 that it had none.
func (g *gatherer) anonymous(ctx context.Context) {
	client, err := rest.HTTPClientFor(&rest.Config{
		Host: g.opts.Config.Host, Timeout: g.opts.Timeout, UserAgent: g.opts.Config.UserAgent, Proxy: g.opts.Config.Proxy, Dial: g.opts.Config.Dial,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: g.opts.Config.CAData, CAFile: g.opts.Config.CAFile, ServerName: g.opts.Config.ServerName, Insecure: g.opts.Config.Insecure,
		},
	})
	if err != nil {
		g.facts.Anonymous = Unknown[bool](err.Error())
		return
	}
	defer utilnet.CloseIdleConnectionsFor(client.Transport)
	_, _, err = get(ctx, client, strings.TrimSuffix(g.opts.Config.Host, "/")+"/api")
	var code *codeError
	switch {
	case err == nil, errors.As(err, &code) && code.code == http.StatusForbidden:
		g.facts.Anonymous = Known(true)
	case errors.As(err, &code) && code.code == http.StatusUnauthorized:
		g.facts.Anonymous = Known(false)
	default:
		g.facts.Anonymous = Unknown[bool](why("/api without credentials", err))
	}
}

// metrics reads what the API server says of itself. The answer has megabytes and is not kept.
func (g *gatherer) metrics(ctx context.Context) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(g.opts.Config.Host, "/")+"/metrics", nil)
	if err != nil {
		g.facts.About = Unknown[signals.About](err.Error())
		return
	}
	response, err := g.http.Do(request)
	if err == nil {
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			err = &codeError{code: response.StatusCode}
		}
	}
	if err == nil {
		var about signals.About
		if about, err = signals.ReadAbout(response.Body); err == nil {
			g.facts.About = Known(about)
			return
		}
	}
	g.facts.About = Unknown[signals.About](why("/metrics", err))
}
