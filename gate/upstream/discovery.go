package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Discovery says where the API servers of an entry come from; its URL is where to begin.
type Discovery struct {
	// Service is the namespace/name whose EndpointSlices are read; "": the URL's host is resolved.
	Service string
	// Refresh is how often.
	Refresh time.Duration
}

const (
	lookupTimeout = 5 * time.Second
	// maxSlices is far more than the slices of a few API servers take.
	maxSlices = 1 << 20
)

// seed is the address to begin with.
func (o *Options) seed() string {
	if u, err := url.Parse(o.URL); err == nil {
		return u.Host
	}
	return ""
}

// resolve returns host:port for each address of the entry's host.
func (k *Keeper) resolve(ctx context.Context, o *Options) ([]string, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, err
	}
	addresses, err := k.resolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", u.Hostname(), err)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	var found []string
	for _, address := range addresses {
		found = append(found, net.JoinHostPort(address.Unmap().String(), port))
	}
	return found, nil
}

// endpoints returns host:port for each endpoint of the entry's Service, as the API servers of the group know it. What
// one without its etcd remembers will do: API servers come and go rarely.
func (k *Keeper) endpoints(ctx context.Context, g *Group, o *Options) ([]string, error) {
	namespace, service, _ := strings.Cut(o.Discovery.Service, "/")
	query := url.Values{"labelSelector": {discoveryv1.LabelServiceName + "=" + service}, "resourceVersion": {"0"}}
	target := url.URL{Path: "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices", RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "seakeep-gate")
	response, err := g.own(k.identity(), ProbeUser).RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxSlices))
	if err != nil {
		return nil, fmt.Errorf("reading endpoint slices of %s: %w", o.Discovery.Service, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("listing endpoint slices of %s as %s: %s", o.Discovery.Service, ProbeUser, response.Status)
	}
	return endpointsIn(body)
}

// endpointsIn reads host:port of each endpoint that is not said to be unready, by its port named https or its first.
func endpointsIn(body []byte) ([]string, error) {
	var list discoveryv1.EndpointSliceList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("parsing endpoint slices: %w", err)
	}
	var found []string
	for i := range list.Items {
		port, ok := portOf(&list.Items[i])
		if !ok {
			continue
		}
		for _, endpoint := range list.Items[i].Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready || len(endpoint.Addresses) == 0 || endpoint.Addresses[0] == "" {
				continue
			}
			address := net.JoinHostPort(endpoint.Addresses[0], port)
			if u, err := url.Parse("https://" + address); err != nil || u.Host != address {
				continue // no address can be written so
			}
			if !slices.Contains(found, address) {
				found = append(found, address)
			}
		}
	}
	return found, nil
}

func portOf(slice *discoveryv1.EndpointSlice) (string, bool) {
	best := -1
	for i, p := range slice.Ports {
		if p.Port == nil || *p.Port < 1 || *p.Port > 65535 || p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP {
			continue
		}
		if best < 0 || p.Name != nil && *p.Name == "https" {
			best = i
		}
	}
	if best < 0 {
		return "", false
	}
	return strconv.Itoa(int(*slice.Ports[best].Port)), true
}

var (
	errNobody      = errors.New("nobody was found")
	errNobodyThere = errors.New("none of the API servers found can be reached")
)

// look looks for an entry's API servers once and takes them into use. An answer without any, or with none that can be
// reached, is more likely wrong than every API server gone, and if they are gone nothing is lost by keeping them.
func (k *Keeper) look(ctx context.Context, g *Group, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var found []string
	var err error
	if e.options.Discovery.Service == "" {
		found, err = k.resolve(ctx, &e.options)
	} else {
		found, err = k.endpoints(ctx, g, &e.options)
	}
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(address string) bool { return address == k.self })
	if len(found) == 0 {
		return errNobody
	}
	next, left := e.places.settle(found)
	if left > 0 {
		k.log.Warn("Using some of the API servers found", "upstream", e.options.Name, "found", len(found), "max", maxDiscovered)
	}
	if slices.Equal(next, e.places) {
		return nil
	}
	var servers []*Server
	for _, o := range next.options(&e.options) {
		s, err := New(o)
		if err != nil {
			return err
		}
		servers = append(servers, k.known(s))
	}
	if !anyReachable(ctx, servers) {
		for _, s := range servers {
			s.probes.CloseIdleConnections()
		}
		return errNobodyThere
	}
	k.adopt(g, e, next, servers)
	return nil
}

// anyReachable is true when one of the servers answers anything.
func anyReachable(ctx context.Context, servers []*Server) bool {
	answers := make(chan bool, len(servers))
	for _, s := range servers {
		go func() { answers <- s.warm(ctx, s.probes) == nil }() // ends with ctx
	}
	reachable := false
	for range servers {
		reachable = <-answers || reachable
	}
	return reachable
}
