package lint

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

// shortest is the period that is called short: 300 nodes then ask 10 times a second.
const shortest = 30 * time.Second

// settings reads what known agents are told, in their arguments, environment and ConfigMaps.
func (a *agent) settings() {
	a.labAgent()
	for i, c := range a.containers() {
		a.environment(c)
		a.arguments(fmt.Sprintf("spec.template.spec.containers[%d]", i), c)
	}
	for _, name := range a.mounted() {
		c, ok := a.m.configs[cmp.Or(a.ds.Namespace, "")+"/"+name]
		if !ok {
			continue
		}
		for _, file := range slices.Sorted(maps.Keys(c.Data)) {
			a.config("ConfigMap "+name+" "+file, c.Data[file])
		}
	}
}

// mounted are the ConfigMaps the pods use.
func (a *agent) mounted() []string {
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, v := range a.ds.Spec.Template.Spec.Volumes {
		if v.ConfigMap != nil {
			add(v.ConfigMap.Name)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(s.ConfigMap.Name)
				}
			}
		}
	}
	for _, c := range a.containers() {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				add(e.ConfigMapRef.Name)
			}
		}
	}
	return names
}

// labAgent reads the annotations by which a lab's agents behave.
func (a *agent) labAgent() {
	annotations := a.ds.Spec.Template.Annotations
	get := func(key string) string { return annotations["seakeep.dev/agent-"+key] }
	verb := get("verb")
	if verb != "list" && verb != "watchlist" {
		return
	}
	field := "spec.template.metadata.annotations"
	resource := cmp.Or(get("resource"), "pods")
	if scope := cmp.Or(get("scope"), "cluster"); scope == "cluster" {
		a.find(Risk{
			Name: NoFieldSelector, Severity: High, Field: field + "[seakeep.dev/agent-scope]",
			Why:    fmt.Sprintf("each of its pods reads all %s of the cluster", resource),
			Remedy: cmp.Or(growing[resource], "ask for what is on its own node"),
		})
	}
	if verb == "list" && get("resource-version") == "" {
		a.find(Risk{
			Name: NoResourceVersion, Severity: Medium, Field: field + "[seakeep.dev/agent-resource-version]",
			Why:    "its LISTs name no resourceVersion: the API server must make sure that its answer is the newest, or read it from etcd",
			Remedy: `resourceVersion "0" lets the API server answer from its cache; better, watch`,
		})
	}
	if verb == "list" {
		a.period(field+"[seakeep.dev/agent-period]", cmp.Or(get("period"), "30s"), "it LISTs")
	}
}

func (a *agent) period(field, value, what string) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 || d >= shortest {
		return
	}
	a.find(Risk{
		Name: ShortPeriod, Severity: Medium, Field: field,
		Why:    fmt.Sprintf("%s every %s on every node: 1,000 nodes do so %.0f times a second", what, value, 1000/d.Seconds()),
		Remedy: "watch, or ask less often and with jitter",
	})
}

// environment reads variables of agents that are known.
func (a *agent) environment(c corev1.Container) {
	value := func(name string) (string, bool) {
		for _, e := range c.Env {
			if e.Name == name {
				return e.Value, true
			}
		}
		return "", false
	}
	on := func(name string) bool { v, ok := value(name); return ok && strings.EqualFold(v, "true") }
	if on("DD_COLLECT_KUBERNETES_EVENTS") && !on("DD_LEADER_ELECTION") {
		a.find(Risk{
			Name: ClusterCollector, Severity: High, Field: "container " + c.Name + " env DD_COLLECT_KUBERNETES_EVENTS",
			Why:    "every node's Datadog agent collects all events of the cluster, because there is no leader election",
			Remedy: "the cluster agent collects them once; else DD_LEADER_ELECTION=true",
		})
	}
	if v, ok := value("DD_CLUSTER_AGENT_ENABLED"); ok && strings.EqualFold(v, "false") {
		a.find(Risk{
			Name: ClusterCollector, Severity: Medium, Field: "container " + c.Name + " env DD_CLUSTER_AGENT_ENABLED",
			Why:    "without the cluster agent every node's Datadog agent asks the API server for cluster metadata itself",
			Remedy: "run the cluster agent",
		})
	}
}

// flagPeriods are flags that say how often an agent asks for everything again.
var flagPeriods = regexp.MustCompile(`^--?((?:kube-?|api-?|k8s-?)?(?:resync|sync|list|poll|refresh)[-_]?(?:period|interval))[= ](\S+)$`)

func (a *agent) arguments(field string, c corev1.Container) {
	all := slices.Concat(c.Command, c.Args)
	stateMetrics := strings.Contains(c.Image, "kube-state-metrics")
	sharded := false
	for i, arg := range all {
		if i+1 < len(all) && !strings.Contains(arg, "=") && strings.HasPrefix(arg, "-") {
			arg += " " + all[i+1]
		}
		if match := flagPeriods.FindStringSubmatch(arg); match != nil {
			a.period(field+".args --"+match[1], match[2], "it asks for everything again")
		}
		sharded = sharded || strings.HasPrefix(arg, "--node=") || strings.HasPrefix(arg, "--node ")
	}
	if stateMetrics && !sharded {
		a.find(Risk{
			Name: ClusterCollector, Severity: High, Field: field,
			Why:    "kube-state-metrics runs on every node and watches everything of the cluster on each",
			Remedy: "a Deployment, or --node=$(NODE_NAME) --resources=pods",
		})
	}
}

// config reads a file of a known agent: an OpenTelemetry collector's, Prometheus' or Promtail's, a Beat's, Fluent Bit's, Vector's.
func (a *agent) config(field, text string) {
	if fluentFilter.MatchString(text) && !fluentKubelet.MatchString(text) {
		a.find(Risk{
			Name: NoFieldSelector, Severity: Medium, Field: field,
			Why:    "Fluent Bit's kubernetes filter asks the API server for each pod it has not seen: after a restart of all of them, for every pod at once",
			Remedy: "Use_Kubelet On, which asks the node's kubelet",
		})
	}
	var tree map[string]any
	if yaml.Unmarshal([]byte(text), &tree) != nil {
		return // not YAML: no agent that is known by it
	}
	a.otel(field, tree)
	walk(tree, field, 0, a.node)
}

var (
	fluentFilter  = regexp.MustCompile(`(?mi)^\s*\[FILTER\]\s*\n(?:\s+[^\[\n]*\n)*?\s*Name\s+kubernetes\b`)
	fluentKubelet = regexp.MustCompile(`(?mi)^\s*Use_Kubelet\s+(?:on|true)\b`)
)

// otel looks at an OpenTelemetry collector's processors and receivers.
func (a *agent) otel(field string, tree map[string]any) {
	processors, _ := tree["processors"].(map[string]any)
	for _, name := range slices.Sorted(mapKeys(processors)) {
		if kind, _, _ := strings.Cut(name, "/"); kind != "k8sattributes" && kind != "k8s_tagger" {
			continue
		}
		settings, _ := processors[name].(map[string]any)
		filter, _ := settings["filter"].(map[string]any)
		if filter["node"] == nil && filter["node_from_env_var"] == nil {
			a.find(Risk{
				Name: NoFieldSelector, Severity: High, Field: field + " processors." + name,
				Why:    "every node's collector watches all pods of the cluster and keeps them in memory",
				Remedy: "filter.node_from_env_var: NODE_NAME, with that variable from fieldRef spec.nodeName",
			})
		}
	}
	receivers, _ := tree["receivers"].(map[string]any)
	for _, name := range slices.Sorted(mapKeys(receivers)) {
		settings, _ := receivers[name].(map[string]any)
		switch kind, _, _ := strings.Cut(name, "/"); kind {
		case "k8s_cluster", "k8s_events", "k8sobjects":
			if settings["k8s_leader_elector"] != nil {
				continue
			}
			a.find(Risk{
				Name: ClusterCollector, Severity: High, Field: field + " receivers." + name,
				Why:    "every node's collector reads what one would read for the whole cluster",
				Remedy: "a Deployment with one replica, or k8s_leader_elector",
			})
			objects, _ := settings["objects"].([]any)
			for _, o := range objects {
				one, _ := o.(map[string]any)
				if interval, ok := one["interval"].(string); ok {
					a.period(field+" receivers."+name, interval, "it LISTs "+fmt.Sprint(one["name"]))
				}
			}
		}
	}
}

// maxDepth bounds how deep a file is looked through.
const maxDepth = 32

// walk visits every mapping of a file.
func walk(node any, field string, depth int, visit func(field string, mapping map[string]any)) {
	if depth > maxDepth {
		return
	}
	switch node := node.(type) {
	case map[string]any:
		visit(field, node)
		for _, key := range slices.Sorted(mapKeys(node)) {
			walk(node[key], field+" "+key, depth+1, visit)
		}
	case []any:
		for _, one := range node {
			walk(one, field, depth+1, visit)
		}
	}
}

// node looks at one mapping, wherever it is.
func (a *agent) node(field string, mapping map[string]any) {
	if discoveries, ok := mapping["kubernetes_sd_configs"].([]any); ok {
		for _, one := range discoveries {
			d, _ := one.(map[string]any)
			role, _ := d["role"].(string)
			if role != "pod" && role != "endpoints" && role != "endpointslice" && role != "service" {
				continue
			}
			if !selectsNode(d["selectors"]) && d["namespaces"] == nil {
				a.find(Risk{
					Name: NoFieldSelector, Severity: High, Field: field + " kubernetes_sd_configs",
					Why:    fmt.Sprintf("service discovery of role %s without selectors watches all of them, on every node; relabelling drops the others only after they were sent", role),
					Remedy: "selectors: [{role: pod, field: spec.nodeName=$(NODE_NAME)}], or discovery of role node",
				})
			}
		}
	}
	for _, key := range []string{"add_kubernetes_metadata", "kubernetes"} {
		if m, ok := mapping[key].(map[string]any); ok && m["scope"] == "cluster" {
			a.find(Risk{
				Name: NoFieldSelector, Severity: High, Field: field + " " + key + " scope",
				Why:    "scope cluster watches all pods of the cluster on every node",
				Remedy: "scope: node, with NODE_NAME from fieldRef spec.nodeName",
			})
		}
	}
	// Vector reads its own node's pods, and from etcd unless it is told that the cache will do.
	if mapping["type"] == "kubernetes_logs" && mapping["use_apiserver_cache"] != true {
		a.find(Risk{
			Name: NoResourceVersion, Severity: Low, Field: field + " use_apiserver_cache",
			Why:    "Vector's LISTs name no resourceVersion: when all of them start, etcd answers each",
			Remedy: "use_apiserver_cache: true",
		})
	}
}

// selectsNode is true when one of the selectors is of a field.
func selectsNode(selectors any) bool {
	list, _ := selectors.([]any)
	return slices.ContainsFunc(list, func(one any) bool {
		s, _ := one.(map[string]any)
		field, _ := s["field"].(string)
		return strings.Contains(field, "spec.nodeName")
	})
}
