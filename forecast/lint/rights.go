package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// growing are resources that a large cluster has more of, and what an agent on a node could ask for instead.
var growing = map[string]string{
	"pods":           "ask with fieldSelector spec.nodeName=$(NODE_NAME), or ask the kubelet",
	"events":         "let one replica read them, with leader election",
	"endpoints":      "endpointslices are smaller; most agents on nodes need neither",
	"endpointslices": "share one watch for all nodes, as a Deployment or behind a relay",
	"nodes":          "get the agent's own node by name",
	"services":       "share one watch for all nodes, as a Deployment or behind a relay",
	"secrets":        "name those that are needed, in the namespace they are in",
	"configmaps":     "name those that are needed, in the namespace they are in",
	"replicasets":    "pods' owner references carry the name; or let one replica resolve them",
	"deployments":    "let one replica read them for all",
	"jobs":           "let one replica read them for all",
	"leases":         "get the agent's own lease by name",
	"*":              "name what is needed",
}

// account says when the component has no identity of its own.
func (a *agent) account() {
	if name := a.ds.Spec.Template.Spec.ServiceAccountName; name == "" || name == "default" {
		a.find(Risk{
			Name: NoAccount, Severity: Low, Field: "spec.template.spec.serviceAccountName",
			Why:    "it runs as the namespace's default ServiceAccount: what it costs cannot be told from what others in the namespace cost, nor be limited apart",
			Remedy: "give it a ServiceAccount of its own",
		})
	}
}

// held are the rules that the DaemonSet's ServiceAccount has everywhere, each with the binding it comes by.
type held struct {
	rule    rbacv1.PolicyRule
	binding string
}

func (a *agent) everywhere() []held {
	namespace := cmp.Or(a.ds.Namespace, "default")
	account := cmp.Or(a.ds.Spec.Template.Spec.ServiceAccountName, "default")
	var rules []held
	for _, b := range a.m.bindings {
		if b.namespace != "" || !slices.ContainsFunc(b.subjects, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case rbacv1.ServiceAccountKind:
				return s.Name == account && cmp.Or(s.Namespace, "default") == namespace
			case rbacv1.GroupKind:
				return s.Name == "system:serviceaccounts" || s.Name == "system:serviceaccounts:"+namespace || s.Name == "system:authenticated"
			case rbacv1.UserKind:
				return s.Name == "system:serviceaccount:"+namespace+":"+account
			}
			return false
		}) {
			continue
		}
		found, ok := a.m.roles[b.role]
		if !ok {
			found = builtIn[b.role]
		}
		for _, rule := range found {
			rules = append(rules, held{rule, b.name})
		}
	}
	return rules
}

func allows(rule rbacv1.PolicyRule, verb string) bool {
	return slices.Contains(rule.Verbs, verb) || slices.Contains(rule.Verbs, "*")
}

// rights finds what every node may read, and write.
func (a *agent) rights() {
	rules := a.everywhere()
	type use struct{ read, write, watch bool }
	uses := map[string]use{}
	by := map[string]string{}
	for _, h := range rules {
		// Rights to objects by name do not list all of them.
		if len(h.rule.ResourceNames) > 0 {
			continue
		}
		for _, resource := range h.rule.Resources {
			u := uses[resource]
			u.read = u.read || allows(h.rule, "list") || allows(h.rule, "watch")
			u.watch = u.watch || allows(h.rule, "watch")
			u.write = u.write || allows(h.rule, "update") || allows(h.rule, "patch") || allows(h.rule, "create")
			uses[resource], by[resource] = u, h.binding
		}
	}
	reads := false
	for _, resource := range slices.Sorted(mapKeys(uses)) {
		u := uses[resource]
		remedy, grows := growing[resource]
		if u.read && grows {
			reads = reads || resource == "pods" || resource == "*"
			severity := Medium
			if resource == "pods" || resource == "events" || resource == "endpoints" || resource == "secrets" || resource == "*" {
				severity = High
			}
			a.find(Risk{
				Name: ClusterWideRead, Severity: severity, Field: "ClusterRoleBinding " + by[resource],
				Why:    fmt.Sprintf("every node may LIST and watch all %s of the cluster: what one node costs grows with the cluster, and there are as many nodes as it has", plural(resource)),
				Remedy: remedy,
			})
		}
		if u.watch && u.write && resource != "leases" && resource != "events" && !strings.Contains(resource, "/") {
			a.find(Risk{
				Name: WritesWhatItReads, Severity: Medium, Field: "ClusterRoleBinding " + by[resource],
				Why:    fmt.Sprintf("every node may write %s and watch all of them: if it does both, each write goes to every node, and cost grows with the square of the nodes", plural(resource)),
				Remedy: "watch with a field selector for its own, or do not give the right to write",
			})
		}
	}
	if reads && !a.knowsNode() {
		a.find(Risk{
			Name: NoNodeName, Severity: High, Field: "spec.template.spec.containers[*].env",
			Why:    "it may read all pods and is not told which node it is on: it cannot ask for its own node's pods only",
			Remedy: "env NODE_NAME from fieldRef spec.nodeName, and a field selector of it",
		})
	}
}

func plural(resource string) string {
	if resource == "*" {
		return "objects of every kind"
	}
	return resource
}

// knowsNode is true when a container gets its node's name.
func (a *agent) knowsNode() bool {
	for _, c := range a.containers() {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && (e.ValueFrom.FieldRef.FieldPath == "spec.nodeName" || e.ValueFrom.FieldRef.FieldPath == "status.hostIP") {
				return true
			}
		}
	}
	return false
}

// many is from which share of the nodes at once a rollout's starts are a burst.
const many = 25 // per cent

// starts finds rollouts that start many nodes together.
func (a *agent) starts() {
	u := a.ds.Spec.UpdateStrategy.RollingUpdate
	if u == nil {
		return
	}
	if n := u.MaxUnavailable; n != nil {
		if percent, ok := strings.CutSuffix(n.StrVal, "%"); ok {
			if p, err := strconv.Atoi(percent); err == nil && p > many {
				a.find(Risk{
					Name: StartsAtOnce, Severity: Medium, Field: "spec.updateStrategy.rollingUpdate.maxUnavailable",
					Why:    fmt.Sprintf("an update starts it on %s of the nodes at once: what each start reads is read that many times together", n.StrVal),
					Remedy: "maxUnavailable of a few nodes, or OnDelete and steps",
				})
			}
		}
	}
	if n := u.MaxSurge; n != nil && n.String() != "0" && n.String() != "0%" {
		a.find(Risk{
			Name: Surge, Severity: Low, Field: "spec.updateStrategy.rollingUpdate.maxSurge",
			Why:    "the old and the new one run on a node together while it is updated: it costs twice meanwhile. Under OnDelete it has no effect",
			Remedy: "maxUnavailable instead",
		})
	}
}
