package signals

import (
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// What an API server says of its load, besides what Read reads, as v1.36 does. Older ones count objects as
// "deployments.apps" only, and say nothing of their sizes.
const (
	processors      = "go_sched_gomaxprocs_threads"
	memoryLimit     = "go_gc_gomemlimit_bytes"
	heapFree        = "go_memory_classes_heap_free_bytes"
	etcdSeconds     = "etcd_request_duration_seconds_sum"
	etcdCount       = "etcd_request_duration_seconds_count"
	resourceObjects = "apiserver_resource_objects"
	storageObjects  = "apiserver_storage_objects"
	resourceBytes   = "apiserver_resource_size_estimate_bytes"
)

// Resource is a kind of object.
type Resource struct{ Group, Resource string }

// Load is one reading of how loaded one API server is, and of what it has to carry.
type Load struct {
	APIServer
	// Processors is how many it uses at once (GOMAXPROCS): its CPU limit when it runs in a container that has one, else the
	// machine's. 0 when it does not say.
	Processors float64
	// MemoryLimit is what its runtime is told to stay within (GOMEMLIMIT), in bytes; 0 when it is told nothing.
	MemoryLimit float64
	// HeapFreeBytes are held and free: the heap grows into them first, and gives them back over minutes.
	HeapFreeBytes float64
	// EtcdSeconds is the time EtcdRequests took, LISTs left out: how long one takes says how large it is.
	EtcdSeconds, EtcdRequests float64
	// Objects is how many objects are stored, and ObjectBytes about how large they are together, each about a minute old;
	// what is not known, or not read from etcd yet, is not in it.
	Objects, ObjectBytes map[Resource]float64
	// Watches are those open now, the API server's own among them.
	Watches map[Resource]float64
}

// LoadChange is what happened between two readings of the same API server.
type LoadChange struct {
	Change
	// EtcdSeconds is the time EtcdRequests took.
	EtcdSeconds, EtcdRequests float64
}

// EtcdLatency is the mean time of a request to etcd, 0 when there was none.
func (c LoadChange) EtcdLatency() time.Duration {
	if c.EtcdRequests <= 0 {
		return 0
	}
	return time.Duration(min(max(0, c.EtcdSeconds/c.EtcdRequests), 3600) * float64(time.Second))
}

// ReadLoad reads an API server's /metrics in the Prometheus text format. Like Read it parses what it wants only: of 2 MB,
// some 20 KB.
func ReadLoad(r io.Reader, now time.Time) (Load, error) {
	families, err := parse(r, loadMetrics...)
	if err != nil {
		return Load{}, err
	}
	return loadOf(families, now)
}

// loadMetrics are the families a Load is made from.
var loadMetrics = append([]string{
	processors, memoryLimit, heapFree, etcdSeconds, etcdCount, resourceObjects, storageObjects, resourceBytes, longRunningOpen,
}, serverMetrics...)

func loadOf(families map[string]*dto.MetricFamily, now time.Time) (Load, error) {
	server, err := serverOf(families, now)
	if err != nil {
		return Load{}, err
	}
	l := Load{
		APIServer:     server,
		Processors:    max(0, sum(families[processors], nil)),
		HeapFreeBytes: max(0, sum(families[heapFree], nil)),
		EtcdSeconds:   sum(families[etcdSeconds], notListed),
		EtcdRequests:  sum(families[etcdCount], notListed),
		Objects:       byResource(families[resourceObjects], nil),
		ObjectBytes:   byResource(families[resourceBytes], nil),
		Watches:       byResource(families[longRunningOpen], label("verb", "WATCH")),
	}
	// The runtime's word for no limit is the largest int64, 9.2e18.
	if limit := sum(families[memoryLimit], nil); limit > 0 && limit < 1<<62 {
		l.MemoryLimit = limit
	}
	if l.Objects == nil {
		l.Objects = byResource(families[storageObjects], nil)
	}
	return l, nil
}

// Since returns what happened between an earlier reading and this one.
func (l Load) Since(earlier Load) LoadChange {
	c := LoadChange{Change: l.APIServer.Since(earlier.APIServer), EtcdSeconds: l.EtcdSeconds, EtcdRequests: l.EtcdRequests}
	if !c.Restarted {
		c.EtcdSeconds -= earlier.EtcdSeconds
		c.EtcdRequests -= earlier.EtcdRequests
	}
	return c
}

// notListed leaves out the operations list, listWithCount, and their like.
func notListed(m *dto.Metric) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == "operation" {
			return !strings.HasPrefix(l.GetValue(), "list")
		}
	}
	return true
}

// byResource sums a family's selected metrics by resource; nil when there are none. Less than nothing is what an API server
// says of what it cannot count.
func byResource(family *dto.MetricFamily, selected func(*dto.Metric) bool) map[Resource]float64 {
	var found map[Resource]float64
	for _, m := range family.GetMetric() {
		v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		if selected != nil && !selected(m) || !(v > 0) || math.IsInf(v, 0) {
			continue
		}
		var r Resource
		grouped := false
		for _, l := range m.GetLabel() {
			if len(l.GetValue()) > maxRequestKindName {
				break
			}
			switch l.GetName() {
			case "group":
				r.Group, grouped = strings.Clone(l.GetValue()), true
			case "resource":
				r.Resource = strings.Clone(l.GetValue())
			}
		}
		if !grouped {
			r.Resource, r.Group, _ = strings.Cut(r.Resource, ".")
		}
		if r.Resource == "" || len(found) >= maxRequestKinds {
			continue
		}
		if found == nil {
			found = map[Resource]float64{}
		}
		found[r] += v
	}
	return found
}
