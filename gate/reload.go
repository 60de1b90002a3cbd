package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/identity/tokens"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/pki"
)

// rooms are the parts of the corridor that depend on the configuration and its files, swapped whole.
type rooms struct {
	config   *v1alpha1.GateConfiguration
	mode     v1alpha1.IdentityMode
	headers  *identity.Headers
	identity *identity.Authenticator
	tokens   *tokens.Verifier
	group    *upstream.Group
	proxy    *upstream.Proxy
	serving  *tls.Config
	stop     func() // ends what refreshes this snapshot's keys, and waits for it
}

// followFiles reloads whenever the configuration or a file it names changes, until the context ends.
func (g *Gate) followFiles(ctx context.Context) {
	for ctx.Err() == nil {
		round, next := context.WithCancel(ctx)
		watched := g.watched
		watched.Run(round, func() {
			g.reload()
			if g.watched != watched { // the configuration in force names other files
				next()
			}
		})
		next()
	}
}

// load reads the configuration, and sees to it that a change from now on is noticed.
func (g *Gate) load() (*v1alpha1.GateConfiguration, *config.Document, error) {
	cfg, doc, err := g.opts.Load()
	if err != nil {
		return nil, nil, err
	}
	files := []string{g.opts.ConfigFile}
	for _, ref := range cfg.Files() {
		if ref.Use != v1alpha1.FileKeySet && ref.Use != v1alpha1.FilePublicKeys { // those the token verifier follows itself
			files = append(files, ref.Path)
		}
	}
	if !slices.Equal(files, g.files) {
		g.files, g.watched = files, config.NewWatcher(files)
	}
	return cfg, doc, nil
}

func (g *Gate) reload() {
	cfg, doc, err := g.load()
	if err == nil {
		err = g.use(cfg, doc)
	}
	if err == nil {
		err = g.peers.reload(cfg)
	}
	g.metrics.reloaded(err == nil)
	if err != nil {
		g.log.Error("Keeping the running configuration", "reason", err)
		return
	}
	g.log.Info("Configuration in force", "file", g.opts.ConfigFile)
}

// use builds the rooms of a configuration and puts them in force, whole or not at all.
func (g *Gate) use(cfg *v1alpha1.GateConfiguration, doc *config.Document) error {
	next, err := g.build(cfg, doc)
	if err != nil {
		return err
	}
	seeing, err := g.observersOf(cfg, doc)
	if err != nil {
		next.stop()
		return err
	}
	sharing, err := g.relayingOf(cfg, doc)
	if err != nil {
		next.stop()
		seeing.close(g.observers.Load())
		return err
	}
	undo := func() {
		next.stop()
		seeing.close(g.observers.Load())
		sharing.close(g.relaying.Load())
	}
	var shipped []v1alpha1.LimitRule
	if cfg.DefaultLimits == v1alpha1.Enabled {
		shipped = limit.Shipped()
	}
	if err := g.limits.Configure(cfg.Limits, shipped); err != nil {
		undo()
		return fmt.Errorf("compiling limits: %w", err)
	}
	if err := g.admission.Configure(cfg.Overload); err != nil {
		undo()
		return fmt.Errorf("configuring admission: %w", err)
	}
	g.policy.use(cfg)
	if g.places != nil {
		g.places.configure(cfg.Listen.Connections)
	}
	if previous := g.observers.Swap(seeing); previous != nil {
		previous.close(seeing)
	}
	previous := g.rooms.Swap(next)
	g.upstreams.FollowLoad(cfg.Overload != nil && cfg.Overload.Mode != v1alpha1.OverloadDisabled)
	g.upstreams.Use(next.group, next.headers, float64(cfg.Balance.WatchesPerSecond))
	g.relaying.Swap(sharing).close(sharing)
	if sharing != nil {
		sharing.start()
	}
	if previous != nil {
		previous.stop() // requests that walk through it end there
	}
	return nil
}

func (g *Gate) build(cfg *v1alpha1.GateConfiguration, doc *config.Document) (*rooms, error) {
	if err := doc.CheckFiles(time.Now()); err != nil {
		return nil, err
	}
	serving, err := tls.LoadX509KeyPair(cfg.Listen.CertFile, cfg.Listen.KeyFile)
	if err != nil {
		return nil, doc.Errorf(field.NewPath("listen", "certFile"), cfg.Listen.CertFile, err.Error())
	}
	clients, err := pki.LoadPool(cfg.Identity.ClientCAFile)
	if err != nil {
		return nil, doc.Errorf(field.NewPath("identity", "clientCAFile"), cfg.Identity.ClientCAFile, err.Error())
	}
	// Read once: what was checked is what is used until the next reload, whatever happens to the files meanwhile.
	proxying, err := tls.LoadX509KeyPair(cfg.Identity.ProxyCertFile, cfg.Identity.ProxyKeyFile)
	if err != nil {
		return nil, doc.Errorf(field.NewPath("identity", "proxyCertFile"), cfg.Identity.ProxyCertFile, err.Error())
	}
	for _, warning := range identity.ProxyCertificateWarnings(proxying.Leaf, cfg.Identity.Mode, clients, time.Now()) {
		g.log.Warn("The theft of the proxy key would be worse than it need be", "reason", warning)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var refreshing sync.WaitGroup
	stop := func() { cancel(); refreshing.Wait() }
	next := &rooms{
		config:  cfg,
		mode:    cfg.Identity.Mode,
		headers: identity.NewHeaders(cfg.Identity.Mode, cfg.Identity.RequestHeaders),
		serving: servingConfig(clients, serving),
		stop:    stop,
	}
	var verifier identity.TokenVerifier
	if cfg.Identity.ServiceAccounts != nil || len(cfg.Identity.OIDC) > 0 {
		next.tokens, err = tokens.New(tokens.Options{ServiceAccounts: cfg.Identity.ServiceAccounts, OIDC: cfg.Identity.OIDC, Clock: time.Now, Log: g.log})
		if err != nil {
			stop()
			return nil, doc.Errorf(field.NewPath("identity"), nil, err.Error())
		}
		verifier = next.tokens
		refreshing.Go(func() { next.tokens.Run(ctx) })
	}
	next.identity = identity.New(identity.Options{
		ClientCAs:    clients,
		RefuseGroups: cfg.Identity.RefuseGroups,
		Tokens:       verifier,
		Clock:        time.Now,
	})
	if next.group, err = g.upstreams.Prepare(upstreamsOf(cfg, &proxying)); err != nil {
		stop()
		path, name := field.NewPath("upstreams"), ""
		var which *upstream.OptionsError
		if errors.As(err, &which) {
			path, name = path.Index(which.Index), cfg.Upstreams[which.Index].Name
		}
		return nil, doc.Errorf(path, name, err.Error())
	}
	next.proxy = upstream.NewProxy(next.group, next.headers, cfg.UpstreamTimeout.Duration, g.bodies, g.log)
	return next, nil
}

// dialTimeout is how long one of several API servers may keep a request before the next is asked. A gate before only one
// has nobody else to ask, and waits.
const dialTimeout = 1500 * time.Millisecond

func upstreamsOf(cfg *v1alpha1.GateConfiguration, proxying *tls.Certificate) []upstream.Options {
	var options []upstream.Options
	for _, u := range cfg.Upstreams {
		o := upstream.Options{Name: u.Name, URL: u.URL, CAFile: u.CAFile, ServerName: u.ServerName, ProxyCertificate: proxying}
		switch u.Discover {
		case v1alpha1.DiscoverDNS:
			o.Discovery = &upstream.Discovery{Refresh: u.Refresh.Duration}
			if o.ServerName == "" {
				o.ServerName = hostOf(u.URL)
			}
		case v1alpha1.DiscoverEndpointSlices:
			o.Discovery = &upstream.Discovery{Service: u.Service, Refresh: u.Refresh.Duration}
		}
		if len(cfg.Upstreams) > 1 || o.Discovery != nil {
			o.DialTimeout = dialTimeout
		}
		options = append(options, o)
	}
	return options
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
