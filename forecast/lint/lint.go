// Package lint reads a manifest before anything of it runs, and names what would make its cost grow with the cluster: rights to
// LIST and watch everything from every node, agents' settings known for it, short periods, starts all at once. It is pure. What
// it finds are risks, not costs: what a component costs is measured by a forecast.
package lint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Severity orders risks.
type Severity string

// The severities. High is the shape of 2024-12-11: every node reads what grows with the cluster. Low is something to know.
const (
	High   Severity = "High"
	Medium Severity = "Medium"
	Low    Severity = "Low"
)

// Risk is one finding.
type Risk struct {
	// Name is one of the constants below: what to look up, and to refer to.
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	// Object is kind namespace/name, Field where in it.
	Object string `json:"object"`
	Field  string `json:"field,omitempty"`
	// Why says what it does, Remedy what to do instead.
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

// The risks.
const (
	ClusterWideRead   = "cluster-wide-read"         // a DaemonSet may LIST or watch all of something that grows
	NoNodeName        = "no-node-name"              // and is not told its node, so that it cannot ask for its own
	NoFieldSelector   = "no-field-selector"         // its settings read all of it
	NoResourceVersion = "no-resource-version"       // its LISTs are read from etcd
	ShortPeriod       = "short-period"              // it asks often
	StartsAtOnce      = "starts-at-once"            // many nodes start together
	WritesWhatItReads = "writes-what-it-watches"    // what each node writes goes to every node: n²
	NoAccount         = "no-service-account"        // its cost cannot be told from others'
	ClusterCollector  = "cluster-collector-on-node" // every node collects what one would do for all
	Surge             = "surge"                     // old and new run at once
)

// Bounds on what is read: manifests of a large product are a few megabytes.
const (
	maxBytes     = 32 << 20
	maxDocuments = 10_000
)

// Manifest is what the risks are found in.
type Manifest struct {
	daemonSets []appsv1.DaemonSet
	roles      map[string][]rbacv1.PolicyRule // by ClusterRole or namespace/Role
	bindings   []binding
	configs    map[string]corev1.ConfigMap
	// Objects is how many documents were read, Others those that are no subject of a lint.
	Objects, Others int
}

type binding struct {
	name     string
	subjects []rbacv1.Subject
	role     string
	// namespace is where it holds; "" is everywhere.
	namespace string
}

// builtIn are roles every cluster has and manifests bind to.
var builtIn = map[string][]rbacv1.PolicyRule{
	"cluster-admin": {{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}},
	"view":          {{APIGroups: []string{"", "apps", "batch"}, Resources: []string{"pods", "services", "endpoints", "configmaps", "deployments", "replicasets", "jobs"}, Verbs: []string{"get", "list", "watch"}}},
	"edit":          {{APIGroups: []string{"", "apps", "batch"}, Resources: []string{"pods", "services", "endpoints", "configmaps", "secrets", "deployments", "replicasets", "jobs"}, Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete"}}},
	"admin":         {{APIGroups: []string{"", "apps", "batch"}, Resources: []string{"pods", "services", "endpoints", "configmaps", "secrets", "deployments", "replicasets", "jobs"}, Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete"}}},
}

// Parse reads YAML or JSON documents; Lists are opened. A document that is no object is an error with its number.
func Parse(r io.Reader) (*Manifest, error) {
	m := New()
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	if len(data) > maxBytes {
		return nil, fmt.Errorf("reading manifest: it is larger than %d bytes", maxBytes)
	}
	documents := yamlutil.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	buffer := make([]byte, len(data)+1)
	for number := 1; number <= maxDocuments; number++ {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading manifest, document %d: %w", number, err)
		}
		if err := m.add(buffer[:n], 0); err != nil {
			return nil, fmt.Errorf("reading manifest, document %d: %w", number, err)
		}
	}
	return nil, fmt.Errorf("reading manifest: more than %d documents", maxDocuments)
}

// New is a manifest without objects.
func New() *Manifest {
	return &Manifest{roles: map[string][]rbacv1.PolicyRule{}, configs: map[string]corev1.ConfigMap{}}
}

// Add adds an object that was read already; an error when it is none, or of a kind that is read here and not of its shape.
func (m *Manifest) Add(object map[string]any) error {
	text, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return m.add(text, 0)
}

// maxNesting bounds Lists in Lists.
const maxNesting = 3

func (m *Manifest) add(text []byte, nesting int) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []any `json:"items"`
	}
	if len(bytes.TrimSpace(stripComments(text))) == 0 {
		return nil
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		return err
	}
	if head.Kind == "" {
		return errors.New("it has no kind")
	}
	m.Objects++
	switch head.Kind {
	case "List":
		m.Objects--
		if nesting == maxNesting {
			return fmt.Errorf("more than %d Lists in Lists", maxNesting)
		}
		for i, item := range head.Items {
			one, err := yaml.Marshal(item)
			if err == nil {
				err = m.add(one, nesting+1)
			}
			if err != nil {
				return fmt.Errorf("items[%d]: %w", i, err)
			}
		}
		return nil
	case "DaemonSet":
		var ds appsv1.DaemonSet
		if err := yaml.Unmarshal(text, &ds); err != nil {
			return fmt.Errorf("parsing DaemonSet: %w", err)
		}
		m.daemonSets = append(m.daemonSets, ds)
	case "ClusterRole":
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal(text, &role); err != nil {
			return fmt.Errorf("parsing ClusterRole: %w", err)
		}
		m.roles[role.Name] = role.Rules
	case "Role":
		var role rbacv1.Role
		if err := yaml.Unmarshal(text, &role); err != nil {
			return fmt.Errorf("parsing Role: %w", err)
		}
		m.roles[role.Namespace+"/"+role.Name] = role.Rules
	case "ClusterRoleBinding", "RoleBinding":
		var b rbacv1.RoleBinding // the two have the same fields
		if err := yaml.Unmarshal(text, &b); err != nil {
			return fmt.Errorf("parsing %s: %w", head.Kind, err)
		}
		one := binding{name: b.Name, subjects: b.Subjects, role: b.RoleRef.Name}
		if head.Kind == "RoleBinding" {
			one.namespace = cmp.Or(b.Namespace, "default")
			if b.RoleRef.Kind == "Role" {
				one.role = b.Namespace + "/" + b.RoleRef.Name
			}
			for i := range one.subjects {
				if one.subjects[i].Namespace == "" {
					one.subjects[i].Namespace = b.Namespace
				}
			}
		}
		m.bindings = append(m.bindings, one)
	case "ConfigMap":
		var c corev1.ConfigMap
		if err := yaml.Unmarshal(text, &c); err != nil {
			return fmt.Errorf("parsing ConfigMap: %w", err)
		}
		m.configs[c.Namespace+"/"+c.Name] = c
	default:
		m.Others++
	}
	return nil
}

// stripComments leaves out lines that are comments or marks, to tell an empty document.
func stripComments(text []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(text) {
		if t := bytes.TrimSpace(line); !bytes.HasPrefix(t, []byte("#")) && !bytes.Equal(t, []byte("---")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// Lint names the risks, the worst first.
func (m *Manifest) Lint() []Risk {
	var risks []Risk
	for i := range m.daemonSets {
		a := agent{m: m, ds: &m.daemonSets[i]}
		a.account()
		a.rights()
		a.starts()
		a.settings()
		risks = append(risks, a.risks...)
	}
	rank := map[Severity]int{High: 0, Medium: 1, Low: 2}
	slices.SortStableFunc(risks, func(x, y Risk) int {
		return cmp.Or(cmp.Compare(rank[x.Severity], rank[y.Severity]), strings.Compare(x.Object, y.Object), strings.Compare(x.Name, y.Name), strings.Compare(x.Field, y.Field))
	})
	return slices.CompactFunc(risks, func(x, y Risk) bool { return x == y })
}

// agent is a DaemonSet that is looked at.
type agent struct {
	m     *Manifest
	ds    *appsv1.DaemonSet
	risks []Risk
}

func (a *agent) find(r Risk) {
	if r.Object == "" {
		r.Object = "DaemonSet " + cmp.Or(a.ds.Namespace, "default") + "/" + a.ds.Name
	}
	a.risks = append(a.risks, r)
}

func (a *agent) containers() []corev1.Container {
	return slices.Concat(a.ds.Spec.Template.Spec.InitContainers, a.ds.Spec.Template.Spec.Containers)
}
