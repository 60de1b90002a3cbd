package v1alpha1

import (
	"fmt"
	"regexp"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// KindClusterShape says how large a cluster is, without what is in it.
const KindClusterShape = "ClusterShape"

// ClusterShape is what `seakeep forecast shape` writes and `seakeep lab up --shape` builds: counts, sizes and rates of a cluster.
// It has no names and no contents: groups that are not Kubernetes' own are numbered.
type ClusterShape struct {
	TypeMeta `json:",inline"`
	// Kubernetes is the API servers' version, as v1.36.3; for the reader.
	Kubernetes string `json:"kubernetes,omitempty"`
	// APIServers is how many answered, 1–100, and what they have together.
	APIServers ShapeServers `json:"apiServers"`
	// Objects are the kinds of objects there are. Nodes and pods are among them.
	Objects []ShapeObjects `json:"objects"`
	// Requests are how often is asked, by verb and resource, most often first.
	Requests []ShapeRequests `json:"requests,omitempty"`
	// Watches are open.
	Watches []ShapeWatches `json:"watches,omitempty"`
}

// ShapeServers are the API servers.
type ShapeServers struct {
	Count int `json:"count"`
	// MilliProcessors is a thousandth of a processor, MemoryBytes the limit their runtimes are told; 0 is not said.
	MilliProcessors int64 `json:"milliProcessors,omitempty"`
	MemoryBytes     int64 `json:"memoryBytes,omitempty"`
}

// ShapeObjects is one kind of object.
type ShapeObjects struct {
	// Group is empty for the core; custom-1, custom-2 … stand for groups that are not Kubernetes' own, and so do resources.
	Group    string `json:"group,omitempty"`
	Resource string `json:"resource"`
	// Count is how many there are, 0–1,000,000; Bytes how large one is on average as etcd has it, 0 when not known.
	Count int   `json:"count"`
	Bytes int64 `json:"bytes,omitempty"`
}

// ShapeRequests is how often is asked for one thing.
type ShapeRequests struct {
	// Verb is GET, LIST, POST, PUT, PATCH, APPLY, DELETE or DELETECOLLECTION.
	Verb     string `json:"verb"`
	Group    string `json:"group,omitempty"`
	Resource string `json:"resource"`
	// PerThousandSeconds is the rate: 1,000 is once a second.
	PerThousandSeconds int64 `json:"perThousandSeconds"`
}

// ShapeWatches is how many watch one thing.
type ShapeWatches struct {
	Group    string `json:"group,omitempty"`
	Resource string `json:"resource"`
	Count    int    `json:"count"`
}

// Bounds of a shape.
const (
	maxShapeCount = 1_000_000
	maxShapeBytes = 1 << 21 // etcd takes no larger object
	maxShapeRate  = 1_000_000_000
	maxShapeLines = 2000
)

var (
	shapeName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	shapeVerbs = map[string]bool{"GET": true, "LIST": true, "POST": true, "PUT": true, "PATCH": true, "APPLY": true, "DELETE": true, "DELETECOLLECTION": true}
)

// SetDefaults implements Object.
func (s *ClusterShape) SetDefaults() {}

// Validate implements Object.
func (s *ClusterShape) Validate() field.ErrorList {
	var errs field.ErrorList
	count := func(path *field.Path, n, least, most int64) {
		if n < least || n > most {
			errs = append(errs, field.Invalid(path, n, fmt.Sprintf("must be %d to %d", least, most)))
		}
	}
	named := func(path *field.Path, group, resource string) {
		if group != "" && !shapeName.MatchString(group) {
			errs = append(errs, field.Invalid(path.Child("group"), group, "must be a group such as apps, or empty"))
		}
		if !shapeName.MatchString(resource) {
			errs = append(errs, field.Invalid(path.Child("resource"), resource, "must be a resource such as pods"))
		}
	}
	servers := field.NewPath("apiServers")
	count(servers.Child("count"), int64(s.APIServers.Count), 1, 100)
	count(servers.Child("milliProcessors"), s.APIServers.MilliProcessors, 0, maxShapeCount)
	count(servers.Child("memoryBytes"), s.APIServers.MemoryBytes, 0, 1<<50)
	for name, n := range map[string]int{"objects": len(s.Objects), "requests": len(s.Requests), "watches": len(s.Watches)} {
		if n > maxShapeLines {
			errs = append(errs, field.TooMany(field.NewPath(name), n, maxShapeLines))
			return errs
		}
	}
	seen := map[[2]string]bool{}
	for i, o := range s.Objects {
		path := field.NewPath("objects").Index(i)
		named(path, o.Group, o.Resource)
		count(path.Child("count"), int64(o.Count), 0, maxShapeCount)
		count(path.Child("bytes"), o.Bytes, 0, maxShapeBytes)
		if key := [2]string{o.Group, o.Resource}; seen[key] {
			errs = append(errs, field.Duplicate(path, o.Resource))
		} else {
			seen[key] = true
		}
	}
	if s.Count("", "nodes") < 1 {
		errs = append(errs, field.Required(field.NewPath("objects"), "there must be nodes: {resource: nodes, count: N}"))
	}
	for i, r := range s.Requests {
		path := field.NewPath("requests").Index(i)
		named(path, r.Group, r.Resource)
		count(path.Child("perThousandSeconds"), r.PerThousandSeconds, 0, maxShapeRate)
		if !shapeVerbs[r.Verb] {
			errs = append(errs, field.Invalid(path.Child("verb"), r.Verb, "must be GET, LIST, POST, PUT, PATCH, APPLY, DELETE or DELETECOLLECTION"))
		}
	}
	for i, w := range s.Watches {
		path := field.NewPath("watches").Index(i)
		named(path, w.Group, w.Resource)
		count(path.Child("count"), int64(w.Count), 0, maxShapeCount)
	}
	return errs
}

// Count is how many objects of a resource there are.
func (s *ClusterShape) Count(group, resource string) int {
	for _, o := range s.Objects {
		if o.Group == group && o.Resource == resource {
			return o.Count
		}
	}
	return 0
}
