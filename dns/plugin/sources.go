package plugin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/coremain"
	"github.com/coredns/coredns/plugin/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/relay"
	"github.com/seakeep/seakeep/dns/source"
)

// sourceOption is one line: source api, source relay URL..., source peer URL, source file PATH.
type sourceOption struct {
	class string
	args  []string
	tls   [3]string // certificate, key, CA
	token string
	name  string // in the server's certificate; empty: the URL's host
	node  string
}

// relayOption is what relay ADDRESS asks for.
type relayOption struct {
	address string
	access  relay.Access
	to      *relay.Relay // set once the keeper is made
}

// parseSource reads: source api | file PATH | relay URL... { tls CERT KEY CACERT; tls_servername NAME; token FILE;
// node NAME } | peer URL {…}.
func parseSource(o *options, c *caddy.Controller) error {
	args := c.RemainingArgs()
	if len(args) == 0 {
		return c.ArgErr()
	}
	s := sourceOption{class: args[0], args: args[1:]}
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		switch {
		case name == "tls" && len(args) == 3:
			s.tls = [3]string(args)
		case name == "tls_servername" && len(args) == 1:
			s.name = args[0]
		case name == "token" && len(args) == 1:
			s.token = args[0]
		case name == "node" && len(args) == 1 && s.class == string(keeper.Relay):
			s.node = args[0]
		default:
			return c.Errf("source %s: unknown property '%s', or not its arguments", s.class, name)
		}
	}
	if err := s.check(); err != nil {
		return c.Errf("source: %v", err)
	}
	for _, other := range o.sources {
		if other.class == s.class && (s.class == string(keeper.API) || slices.ContainsFunc(s.args, func(a string) bool { return slices.Contains(other.args, a) })) {
			return c.Errf("source %s: it is there twice", strings.Join(append([]string{s.class}, s.args...), " "))
		}
	}
	o.sources = append(o.sources, s)
	return nil
}

func (s *sourceOption) check() error {
	secured := s.tls != [3]string{} || s.token != "" || s.name != ""
	switch s.class {
	case string(keeper.API):
		if len(s.args) > 0 || secured {
			return errors.New("api takes no arguments; the options endpoint, tls and kubeconfig say where it is")
		}
		return nil
	case "file":
		if len(s.args) != 1 || secured {
			return errors.New("file takes one path")
		}
		return nil
	case string(keeper.Relay), string(keeper.Peer):
	default:
		return fmt.Errorf("there is no %q; there are api, relay, peer and file", s.class)
	}
	if len(s.args) == 0 || s.class == string(keeper.Peer) && len(s.args) > 1 {
		return fmt.Errorf("%s takes a URL", s.class)
	}
	if s.class == string(keeper.Relay) {
		if s.args = slices.DeleteFunc(s.args, func(text string) bool { return text == noAddress }); len(s.args) == 0 {
			log.Warning("source relay: the variables of no service are set; it is left out")
		}
	}
	for i, text := range s.args {
		text = bracketed(text)
		s.args[i] = text
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("%q is not the URL of a host and nothing else", text)
		}
		// What answers for the cluster must prove who it is.
		if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (ip == nil || !ip.IsLoopback() || s.token != "") {
			return fmt.Errorf("%q: plain HTTP is for a loopback address only, and without a token", text)
		}
		if u.Scheme == "https" && s.tls == [3]string{} && s.token == "" {
			return fmt.Errorf("%q: tls CERT KEY CACERT is missing", text)
		}
	}
	return nil
}

// noAddress is what is left of https://{$X_SERVICE_HOST}:{$X_SERVICE_PORT} in a pod that was started before the service x was
// there. It is no reason not to start: there are other sources.
const noAddress = "https://:"

// bracketed puts an IPv6 address into brackets, which the variables that Kubernetes gives pods do not have.
func bracketed(text string) string {
	rest, ok := strings.CutPrefix(text, "https://")
	if i := strings.LastIndexByte(rest, ':'); ok && i > 0 && strings.IndexByte(rest, ':') < i && net.ParseIP(rest[:i]) != nil {
		return "https://" + net.JoinHostPort(rest[:i], rest[i+1:])
	}
	return text
}

// config is for one of the source's URLs.
func (s *sourceOption) config(host string) *rest.Config {
	return &rest.Config{
		Host: host, BearerTokenFile: s.token, UserAgent: userAgent(),
		TLSClientConfig: rest.TLSClientConfig{CertFile: s.tls[0], KeyFile: s.tls[1], CAFile: s.tls[2], ServerName: s.name},
	}
}

func userAgent() string {
	return fmt.Sprintf("seakeep-dns CoreDNS/%s (%s/%s)", coremain.CoreVersion, runtime.GOOS, runtime.GOARCH)
}

// parseRelay reads: relay ADDRESS { tls CERT KEY [CACERT]; allow NAME...; token FILE; plain }.
func parseRelay(o *options, c *caddy.Controller) error {
	args := c.RemainingArgs()
	if len(args) != 1 || o.relay != nil {
		return c.ArgErr()
	}
	r := &relayOption{address: args[0]}
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		switch {
		case name == "tls" && (len(args) == 2 || len(args) == 3):
			r.access.CertFile, r.access.KeyFile = args[0], args[1]
			if len(args) == 3 {
				r.access.ClientCAFile = args[2]
			}
		case name == "allow" && len(args) > 0:
			r.access.Allow = append(r.access.Allow, args...)
		case name == "token" && len(args) == 1:
			r.access.TokenFile = args[0]
		case name == "plain" && len(args) == 0:
			r.access.Plain = true
		default:
			return c.Errf("relay: unknown property '%s', or not its arguments", name)
		}
	}
	if err := r.access.Validate(r.address); err != nil {
		return c.Errf("relay: %v", err)
	}
	o.relay = r
	return nil
}

// openSources makes what the source lines ask for, in their order; without any, it is the API server alone.
func openSources(k *kubernetes.Kubernetes, o *options) (sources []keeper.Source, fetchers []keeper.Fetcher, err error) {
	if o.relay != nil && (o.selector != nil || o.nsSelector != nil) {
		return nil, nil, errors.New("relay: with labels or namespace_labels this server has a part of the data, which a client would take for all of it")
	}
	lines := o.sources
	if len(lines) == 0 {
		lines = []sourceOption{{class: string(keeper.API)}}
	}
	selectors := source.Selectors{Objects: o.selector, Namespaces: o.nsSelector}
	for _, s := range lines {
		switch s.class {
		case string(keeper.API):
			configs, err := restConfigs(k, o)
			if err != nil {
				return nil, nil, err
			}
			for _, config := range configs {
				api, err := source.NewAPI(config, keeper.API, selectors)
				if err != nil {
					return nil, nil, err
				}
				sources = append(sources, api)
			}
		case string(keeper.Relay):
			if o.selector != nil || o.nsSelector != nil {
				return nil, nil, errors.New("source relay: relays do not keep labels to select by")
			}
			for _, host := range order(cmp.Or(s.node, hostname()), s.args) {
				api, err := source.NewAPI(s.config(host), keeper.Relay, source.Selectors{})
				if err != nil {
					return nil, nil, err
				}
				sources = append(sources, api)
			}
		case string(keeper.Peer):
			peer, err := source.NewPeer(s.config(s.args[0]), 0)
			if err != nil {
				return nil, nil, err
			}
			fetchers = append(fetchers, peer)
		case "file":
			fetchers = append(fetchers, source.NewStatic(s.args[0], nil))
		}
	}
	return sources, fetchers, nil
}

// order is the order in which a node asks relays: its own, the same at every start, and such that a relay's loss or coming
// changes the first choice of few nodes (rendezvous hashing). No election is needed, and nobody to hold one.
func order(node string, urls []string) []string {
	weight := func(u string) string {
		sum := sha256.Sum256([]byte(node + "\x00" + u))
		return string(sum[:])
	}
	ordered := slices.Clone(urls)
	slices.SortFunc(ordered, func(a, b string) int { return cmp.Compare(weight(b), weight(a)) })
	return ordered
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// serveRelay opens the relay's listener, with the relay that the keeper feeds.
func (l *listeners) serveRelay(on net.Listener, r *relay.Relay, access relay.Access) {
	server := r.Server(access)
	server.ErrorLog = slog.NewLogLogger(coreLog{}, slog.LevelDebug)
	l.servers = append(l.servers, server)
	ctx, end := context.WithCancel(context.Background())
	l.ending = append(l.ending, end)
	l.serving.Go(func() { r.Run(ctx) })
	l.serving.Go(func() {
		var err error
		if server.TLSConfig == nil {
			err = server.Serve(on)
		} else {
			err = server.ServeTLS(on, "", "")
		}
		if !errors.Is(err, http.ErrServerClosed) {
			log.Errorf("Serving the relay on %s ended: %v", on.Addr(), err)
		}
	})
}
