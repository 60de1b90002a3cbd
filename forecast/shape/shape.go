// Package shape reads how large a cluster is out of what its API servers count anyway: how many objects of each kind and how
// large, how often is asked for what, how many watch. Two readings of /metrics and nothing else: no object is read, so that none
// can be in what is written, and groups and resources that are not Kubernetes' own are numbered, because their names say who made
// them.
package shape

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/signals"
)

// Reading is what one API server says of itself at one time.
type Reading struct {
	Load     signals.Load
	Requests signals.Requests
	About    signals.About
}

// maxRequests bounds the kinds of requests that are told; the rest is a fraction of a per cent.
const maxRequests = 100

// Of makes a shape of two readings of each API server, some time apart.
func Of(earlier, later []Reading) (*v1alpha1.ClusterShape, error) {
	if len(later) == 0 || len(earlier) != len(later) {
		return nil, fmt.Errorf("there must be two readings of each API server, got %d and %d", len(earlier), len(later))
	}
	s := &v1alpha1.ClusterShape{
		TypeMeta:   v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindClusterShape},
		Kubernetes: later[0].About.Version, APIServers: v1alpha1.ShapeServers{Count: len(later)},
	}
	objects, sizes := map[signals.Resource]float64{}, map[signals.Resource]float64{}
	watches := map[signals.Resource]float64{}
	type asked struct {
		verb string
		what signals.Resource
	}
	rates := map[asked]float64{}
	limited := true
	for i, now := range later {
		change := now.Requests.Since(earlier[i].Requests)
		if change.Restarted || change.Seconds <= 0 {
			return nil, fmt.Errorf("API server %d began anew between two readings", i+1)
		}
		s.APIServers.MilliProcessors += int64(1000 * now.Load.Processors)
		s.APIServers.MemoryBytes += int64(now.Load.MemoryLimit)
		limited = limited && now.Load.MemoryLimit > 0
		for r, n := range now.Load.Objects { // all of them count the same objects
			objects[r] = max(objects[r], n)
		}
		for r, n := range now.Load.ObjectBytes {
			sizes[r] = max(sizes[r], n)
		}
		for r, n := range now.Load.Watches {
			watches[r] += n
		}
		for kind, n := range change.Answered {
			if kind.Resource == "" || kind.Subresource != "" || kind.Verb == "WATCH" || kind.Verb == "CONNECT" {
				continue
			}
			n -= change.Self[kind]
			rates[asked{kind.Verb, signals.Resource{Group: kind.Group, Resource: kind.Resource}}] += n / change.Seconds
		}
	}
	if !limited {
		s.APIServers.MemoryBytes = 0
	}
	hidden := names(objects)
	for r, n := range objects {
		one := v1alpha1.ShapeObjects{Count: int(n)}
		one.Group, one.Resource = hidden.of(r)
		if bytes := sizes[r]; bytes > 0 && n > 0 {
			one.Bytes = int64(math.Round(bytes / n))
		}
		s.Objects = append(s.Objects, one)
	}
	for r, n := range watches {
		one := v1alpha1.ShapeWatches{Count: int(n)}
		one.Group, one.Resource = hidden.of(r)
		s.Watches = append(s.Watches, one)
	}
	for a, n := range rates {
		one := v1alpha1.ShapeRequests{Verb: a.verb, PerThousandSeconds: int64(math.Round(1000 * n))}
		one.Group, one.Resource = hidden.of(a.what)
		if one.PerThousandSeconds > 0 {
			s.Requests = append(s.Requests, one)
		}
	}
	slices.SortFunc(s.Objects, func(a, b v1alpha1.ShapeObjects) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	slices.SortFunc(s.Watches, func(a, b v1alpha1.ShapeWatches) int {
		return cmp.Or(-cmp.Compare(a.Count, b.Count), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	slices.SortFunc(s.Requests, func(a, b v1alpha1.ShapeRequests) int {
		return cmp.Or(-cmp.Compare(a.PerThousandSeconds, b.PerThousandSeconds), cmp.Compare(a.Verb, b.Verb), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	s.Requests = s.Requests[:min(len(s.Requests), maxRequests)]
	if s.Count("", "nodes") == 0 {
		return nil, fmt.Errorf("the API servers do not say how many nodes there are: they count their objects about a minute after their start")
	}
	return s, nil
}

// pseudonyms are numbers for what is not Kubernetes' own.
type pseudonyms struct{ resources map[signals.Resource]string }

// names numbers custom resources by how many objects they have, most first, so that the numbers say no more than the counts do.
func names(objects map[signals.Resource]float64) *pseudonyms {
	p := &pseudonyms{resources: map[signals.Resource]string{}}
	var custom []signals.Resource
	for r := range objects {
		if !ours(r.Group) {
			custom = append(custom, r)
		}
	}
	slices.SortFunc(custom, func(a, b signals.Resource) int {
		return cmp.Or(-cmp.Compare(objects[a], objects[b]), cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	for i, r := range custom {
		p.resources[r] = fmt.Sprintf("custom-%d", i+1)
	}
	return p
}

func (p *pseudonyms) of(r signals.Resource) (group, resource string) {
	if ours(r.Group) && known(r) {
		return r.Group, r.Resource
	}
	name, ok := p.resources[r]
	if !ok { // nothing of it is stored: an aggregated API server's
		name = fmt.Sprintf("custom-%d", len(p.resources)+1)
		p.resources[r] = name
	}
	return name, name
}

// ours is true for a group of Kubernetes' own.
func ours(group string) bool {
	switch group {
	case "", "apps", "batch", "autoscaling", "policy", "extensions":
		return true
	}
	return slices.Contains(official, group)
}

// official are the groups of a stock API server. Others may end in k8s.io too, and say which products run.
var official = []string{
	"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
	"certificates.k8s.io", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io", "flowcontrol.apiserver.k8s.io",
	"internal.apiserver.k8s.io", "networking.k8s.io", "node.k8s.io", "rbac.authorization.k8s.io", "resource.k8s.io",
	"scheduling.k8s.io", "storage.k8s.io", "storagemigration.k8s.io",
}

// known is true for a resource whose name is a name of Kubernetes' own, as far as it can be told.
func known(r signals.Resource) bool {
	return r.Resource != "" && strings.IndexFunc(r.Resource, func(c rune) bool { return c < 'a' || c > 'z' }) < 0
}

// maxMetrics bounds an API server's answer: the largest are some 20 MB.
const maxMetrics = 256 << 20

// Read reads an API server's /metrics in the Prometheus text format.
func Read(r io.Reader, now time.Time) (Reading, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxMetrics+1))
	if err != nil {
		return Reading{}, fmt.Errorf("reading metrics: %w", err)
	}
	if len(text) > maxMetrics {
		return Reading{}, fmt.Errorf("reading metrics: they are larger than %d bytes", maxMetrics)
	}
	var one Reading
	if one.Load, err = signals.ReadLoad(bytes.NewReader(text), now); err != nil {
		return Reading{}, err
	}
	if one.Requests, err = signals.ReadRequests(bytes.NewReader(text), now); err != nil {
		return Reading{}, err
	}
	one.About, err = signals.ReadAbout(bytes.NewReader(text))
	return one, err
}
