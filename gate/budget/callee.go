package budget

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
)

// Callee is a ServiceAccount whose pods API servers call: webhooks and aggregated API servers. What they ask in turn is asked on
// behalf of a request that already holds seats.
type Callee struct {
	// User is the ServiceAccount's user name.
	User string `json:"user"`
	// By is the Service that is called, namespace/name.
	By string `json:"by"`
}

// Bounds on what is looked up: a Service has few pods whose account differs.
const (
	maxCallees  = 500
	podsPerCall = 20
)

// configurations name the Services that API servers call. CustomResourceDefinitions do so too, for conversion, and are not read:
// they are long, and who converts has all it needs in the request.
var configurations = []string{
	"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
	"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
	"/apis/apiregistration.k8s.io/v1/apiservices",
}

// service is a reference to one.
type service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// callees finds whom API servers call: the Services that configurations name, their pods, and the pods' accounts.
func (r *reader) callees(ctx context.Context) ([]Callee, error) {
	var called []service
	for _, path := range configurations {
		err := r.list(ctx, path, "application/json", func(items []item) error {
			for _, it := range items {
				for _, hook := range it.Webhooks {
					called = append(called, hook.ClientConfig.Service)
				}
				called = append(called, it.Spec.Service)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	called = slices.DeleteFunc(called, func(s service) bool { return s.Namespace == "" || s.Name == "" })
	slices.SortFunc(called, func(a, b service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	called = slices.Compact(called)
	if len(called) > maxCallees {
		return nil, fmt.Errorf("webhooks and aggregated API servers have more than %d Services", maxCallees)
	}
	var found []Callee
	for _, s := range called {
		accounts, err := r.accountsBehind(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, account := range accounts {
			found = append(found, Callee{User: userOf(s.Namespace + "/" + account), By: s.Namespace + "/" + s.Name})
		}
	}
	return found, nil
}

// accountsBehind are the accounts of a Service's pods; none when there is no such Service, or it selects nothing.
func (r *reader) accountsBehind(ctx context.Context, s service) ([]string, error) {
	base := "/api/v1/namespaces/" + url.PathEscape(s.Namespace)
	// A list by name, because a Service that is not there is no error, and one right is enough.
	services, err := r.page(ctx, base+"/services", "application/json", url.Values{"fieldSelector": {"metadata.name=" + s.Name}})
	if err != nil || len(services.Items) == 0 || len(services.Items[0].Spec.Selector.labels) == 0 {
		return nil, err
	}
	pods, err := r.page(ctx, base+"/pods", "application/json", url.Values{
		"labelSelector": {services.Items[0].Spec.Selector.String()}, "limit": {fmt.Sprint(podsPerCall)}, "resourceVersion": {"0"},
	})
	if err != nil {
		return nil, err
	}
	var accounts []string
	for _, pod := range pods.Items {
		accounts = append(accounts, cmp.Or(pod.Spec.ServiceAccountName, "default"))
	}
	slices.Sort(accounts)
	return slices.Compact(accounts), nil
}
