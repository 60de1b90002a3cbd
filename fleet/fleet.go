// Package fleet is the clusters we know: from a file, from kubeconfigs in Secrets of a hub cluster, or from its ClusterProfiles.
// It says how each is reached, and asks none of them anything.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Cluster is one cluster.
type Cluster struct {
	Name   string
	Labels map[string]string
	// Source says where it was found, for people.
	Source string
	// Servers are its API servers, host:port each; at least one.
	Servers []string
	// Etcd is how its members are read; nil when that is not known, as for every cluster that was found in a hub.
	Etcd *v1alpha1.FleetEtcd
	// DNS are its DNS servers, IP:port each; none when they are not known beforehand.
	DNS []string
	// Gates are its gates; none when none is known.
	Gates []v1alpha1.FleetGate
	// Config is how it is reached. It has the user agent and the time-out of Options, and no limit on the client's side.
	Config *rest.Config
	// BreakGlass is another way in; nil when there is none.
	BreakGlass *rest.Config
}

// Options are what every client of the fleet has.
type Options struct {
	UserAgent string
	// Timeout of each request, > 0.
	Timeout time.Duration
	// Hub is the hub that the caller works for; nil when there is none. It is for sources without a kubeconfig.
	Hub *rest.Config
}

// Load reads the fleet. Everything that is wrong is returned at once.
func Load(ctx context.Context, f *v1alpha1.Fleet, o Options) (map[string]Cluster, error) {
	clusters := map[string]Cluster{}
	var errs []error
	add := func(c Cluster) {
		if other, twice := clusters[c.Name]; twice {
			errs = append(errs, fmt.Errorf("cluster %s is in %s and in %s: names must be unique", c.Name, other.Source, c.Source))
			return
		}
		if len(c.Servers) == 0 {
			server, err := serverOf(c.Config)
			if err != nil {
				errs = append(errs, fmt.Errorf("cluster %s: %w", c.Name, err))
				return
			}
			c.Servers = []string{server}
		}
		clusters[c.Name] = c
	}
	for i, c := range f.Clusters {
		made, err := fromFile(c, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("clusters[%d]: %w", i, err))
			continue
		}
		add(made)
	}
	for _, hub := range []struct {
		field string
		read  func() ([]Cluster, error)
	}{
		{"secrets", func() ([]Cluster, error) { return fromSecrets(ctx, f.Secrets, o) }},
		{"clusterProfiles", func() ([]Cluster, error) { return fromProfiles(ctx, f.ClusterProfiles, o) }},
	} {
		found, err := hub.read()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", hub.field, err))
		}
		for _, c := range found {
			add(c)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("reading fleet %s: %w", f.Name, err)
	}
	return clusters, nil
}

// serverOf is the address of the server that a client talks to.
func serverOf(config *rest.Config) (string, error) {
	u, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return "", fmt.Errorf("reading the server's URL: %w", err)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80"}[u.Scheme]
	}
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Names returns the clusters' names, sorted.
func Names(clusters map[string]Cluster) []string { return slices.Sorted(maps.Keys(clusters)) }

func fromFile(c v1alpha1.FleetCluster, o Options) (Cluster, error) {
	config, err := readKubeconfig(c.Kubeconfig, c.Context, o)
	if err != nil {
		return Cluster{}, err
	}
	made := Cluster{Name: c.Name, Labels: c.Labels, Source: "the file", Config: config, Servers: c.Servers, Etcd: c.Etcd, DNS: c.DNS, Gates: c.Gates}
	if c.BreakGlass != "" {
		if made.BreakGlass, err = readKubeconfig(c.BreakGlass, "", o); err != nil {
			return Cluster{}, err
		}
	}
	return made, nil
}

// readKubeconfig reads a file that the user named: what it runs and reads is theirs to decide.
func readKubeconfig(file, context string, o Options) (*rest.Config, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: file}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %s: %w", file, err)
	}
	return o.dress(config)
}

func (o Options) dress(config *rest.Config) (*rest.Config, error) {
	config.UserAgent, config.Timeout = o.UserAgent, o.Timeout
	config.QPS = -1 // what is sent is few requests, and waiting behind ourselves would look like a slow API server
	// Read once: a client of files would watch them for the life of the process.
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, fmt.Errorf("reading the keys for %s: %w", config.Host, err)
	}
	return config, nil
}

// foreign reads a kubeconfig that came from a cluster. Whoever may write there must not be able to run programs here, or to have
// files of this machine sent away: a kubeconfig that names a program or a file is refused.
func foreign(data []byte, o Options) (*rest.Config, error) {
	if len(data) > maxKubeconfig {
		return nil, fmt.Errorf("the kubeconfig must be at most %d bytes, got %d", maxKubeconfig, len(data))
	}
	parsed, err := clientcmd.Load(data)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	for name, user := range parsed.AuthInfos {
		switch {
		case user.Exec != nil, user.AuthProvider != nil:
			return nil, fmt.Errorf("user %q runs a program: a kubeconfig from a cluster must hold its credentials", name)
		case user.ClientCertificate+user.ClientKey+user.TokenFile != "":
			return nil, fmt.Errorf("user %q names a file: a kubeconfig from a cluster must hold its credentials", name)
		}
	}
	for name, cluster := range parsed.Clusters {
		if cluster.CertificateAuthority != "" {
			return nil, fmt.Errorf("cluster %q names a file: a kubeconfig from a cluster must hold its certificate authority", name)
		}
	}
	config, err := clientcmd.NewDefaultClientConfig(*parsed, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return o.dress(config)
}

const maxKubeconfig = 1 << 20
