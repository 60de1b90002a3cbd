package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/relay"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/internal/pki"
)

// open makes the keeper that a stanza asks for. Its snapshot is served when it returns.
func open(k *kubernetes.Kubernetes, o *options, registerer prometheus.Registerer) (*keeper.Keeper, error) {
	sources, fetchers, err := openSources(k, o)
	if err != nil {
		return nil, err
	}
	disk, err := openSnapshot(k, o)
	if err != nil {
		return nil, err
	}
	logger := slog.New(coreLog{})
	ko := keeper.Options{
		Store: store.New(time.Now), Sources: sources, Fetchers: fetchers, Kinds: o.kinds(), Snapshot: disk, Cluster: o.cluster, Guard: o.guard,
		Version: "seakeep-dns", Registerer: registerer, Log: logger,
	}
	if o.relay != nil {
		o.relay.to = relay.New(relay.Options{Kinds: ko.Kinds, Version: ko.Version, Registerer: registerer, Log: logger})
		ko.Tap = o.relay.to.Tap
	}
	kept, err := keeper.New(ko)
	if err != nil {
		return nil, err
	}
	if o.relay != nil {
		o.relay.to.Follow(kept)
	}
	if err := kept.Restore(); err != nil {
		logger.Error("Nothing was restored", "error", err)
	}
	return kept, nil
}

func openSnapshot(k *kubernetes.Kubernetes, o *options) (*snapshot.File, error) {
	if o.snapshot == "" {
		return nil, nil
	}
	so := snapshot.Options{Dir: o.snapshot, Authorities: authorities(k, o)}
	if o.snapshotKey != "" {
		key, err := os.ReadFile(o.snapshotKey)
		if err != nil {
			return nil, fmt.Errorf("reading the snapshot's key: %w", err)
		}
		so.Key = bytes.TrimSpace(key)
	}
	return snapshot.Open(so)
}

// authorities are digests of the keys that the API server's certificate is verified with. They are known while no API server
// answers, and other clusters have others; a certificate that is renewed with its key is still the same one.
func authorities(k *kubernetes.Kubernetes, o *options) []string {
	if len(o.sources) > 0 && !slices.ContainsFunc(o.sources, func(s sourceOption) bool { return s.class == string(keeper.API) }) {
		return nil
	}
	configs, err := restConfigs(k, o)
	if err != nil {
		return nil
	}
	config := configs[0] // all have the same
	pem := config.CAData
	if len(pem) == 0 && config.CAFile != "" {
		if pem, err = os.ReadFile(config.CAFile); err != nil {
			return nil
		}
	}
	certs, err := pki.ParseCerts(pem)
	if err != nil {
		return nil
	}
	var digests []string
	for _, c := range certs {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		digests = append(digests, hex.EncodeToString(sum[:16]))
	}
	return digests
}

// kinds are what the options need to be read.
func (o *options) kinds() []store.Kind {
	kinds := []store.Kind{store.Namespaces, store.Services}
	if !o.noEndpoints {
		kinds = append(kinds, store.EndpointSlices)
	}
	if o.podMode == podsVerified {
		kinds = append(kinds, store.Pods)
	}
	if len(o.multicluster) > 0 {
		kinds = append(kinds, store.ServiceImports)
	}
	return kinds
}

// restConfigs are the API servers', as the kubernetes plugin finds them, in order; where the option endpoint names several, that
// plugin uses the first. There is at least one.
func restConfigs(k *kubernetes.Kubernetes, o *options) ([]*rest.Config, error) {
	if k.ClientConfig != nil || len(k.APIServerList) == 0 {
		config, err := restConfig(k, o, "")
		return []*rest.Config{config}, err
	}
	var configs []*rest.Config
	for _, server := range k.APIServerList {
		config, err := restConfig(k, o, server)
		if err != nil {
			return nil, err
		}
		configs = append(configs, config)
	}
	return configs, nil
}

// restConfig is for one API server; without an address, that of the kubeconfig or of the cluster around us. The plugin
// itself sets the limits of its client after the client was made, so that they do nothing; here they do.
func restConfig(k *kubernetes.Kubernetes, o *options, server string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	switch {
	case k.ClientConfig != nil:
		config, err = k.ClientConfig.ClientConfig()
	case server == "":
		config, err = rest.InClusterConfig()
	default:
		overrides := &clientcmd.ConfigOverrides{
			ClusterInfo: clientcmdapi.Cluster{Server: server, CertificateAuthority: k.APICertAuth},
			AuthInfo:    clientcmdapi.AuthInfo{ClientCertificate: k.APIClientCert, ClientKey: k.APIClientKey},
		}
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{}, overrides).ClientConfig()
	}
	if err != nil {
		return nil, err
	}
	config.UserAgent = userAgent()
	if o.qps > 0 {
		config.QPS = o.qps
	}
	if o.burst > 0 {
		config.Burst = o.burst
	}
	return config, nil
}

// coreLog writes what the keeper logs to CoreDNS's log, which has one form and one stream.
type coreLog struct{ with string }

// Enabled implements slog.Handler.
func (coreLog) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l coreLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message + l.with)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
		return true
	})
	switch {
	case r.Level >= slog.LevelError:
		log.Error(b.String())
	case r.Level >= slog.LevelWarn:
		log.Warning(b.String())
	case r.Level >= slog.LevelInfo:
		log.Info(b.String())
	default:
		log.Debug(b.String())
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (l coreLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		l.with += fmt.Sprintf(" %s=%q", a.Key, a.Value.String())
	}
	return l
}

// WithGroup implements slog.Handler; groups are not told apart.
func (l coreLog) WithGroup(string) slog.Handler { return l }

// instance is a prometheus.Registerer for the metrics of one instance of the plugin. A reload makes the next instance
// before it ends this one, and the registry of the process refuses the same metrics twice; so the process has one
// collector, and the instance that was set up last for a zone is what it collects.
type instance struct{ collectors []prometheus.Collector }

// Register implements prometheus.Registerer.
func (i *instance) Register(c prometheus.Collector) error {
	i.collectors = append(i.collectors, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (i *instance) MustRegister(cs ...prometheus.Collector) {
	i.collectors = append(i.collectors, cs...)
}

// Unregister implements prometheus.Registerer; instances are dropped whole.
func (i *instance) Unregister(prometheus.Collector) bool { return false }

// instances is the process's collector.
type instances struct {
	mu     sync.Mutex
	byZone map[string]prometheus.Collector
}

var running = sync.OnceValue(func() *instances {
	i := &instances{byZone: map[string]prometheus.Collector{}}
	prometheus.DefaultRegisterer.MustRegister(i)
	return i
})

// enter returns the registerer of a new instance. Its metrics are collected, with the zone as a label, from show to hide.
func (i *instances) enter(zone string) (registerer prometheus.Registerer, show, hide func()) {
	next := &instance{}
	show = func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.byZone[zone] = next
	}
	hide = func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.byZone[zone] == next {
			delete(i.byZone, zone)
		}
	}
	return prometheus.WrapRegistererWith(prometheus.Labels{"zone": zone}, next), show, hide
}

// Describe implements prometheus.Collector: nothing is promised, since instances come and go.
func (i *instances) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (i *instances) Collect(ch chan<- prometheus.Metric) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, current := range i.byZone {
		current.Collect(ch)
	}
}

// Describe implements prometheus.Collector.
func (i *instance) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (i *instance) Collect(ch chan<- prometheus.Metric) {
	for _, c := range i.collectors {
		c.Collect(ch)
	}
}
