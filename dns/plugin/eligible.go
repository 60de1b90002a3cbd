package plugin

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin/loadbalance"
	coremetrics "github.com/coredns/coredns/plugin/metrics"
)

// harmless are the plugins that may stand before this one with the fast path on. What they do to an answer is a function
// of the query's bytes (so the packed answer has it), or is done by the fast path too, or is nothing for names of the cluster:
//
//   - prometheus counts: so does the fast path. loadbalance shuffles: so does the table.
//   - cache leaves our zones out (see CacheBypassZones), transfer takes transfers only, any takes ANY only, whose
//     answers never pass this plugin.
//   - errors and cancel act on failures, which are not kept.
//   - bufsize and header are functions of the query.
//
// With any other one (acl decides by client, rewrite and template by state, log and dnstap want every query, autopath by
// the pod that asks) the chain answers everything.
var harmless = []string{"metadata", "cancel", "bufsize", "prometheus", "errors", "any", "loadbalance", "cache", "header", "transfer", "kubernetes"}

// eligible says why the fast path must stay off for a server block, or nil.
func (h *Handler) eligible(c *dnsserver.Config) error {
	switch {
	case len(c.FilterFuncs) > 0 || c.ViewName != "":
		return fmt.Errorf("the server block is a view")
	case c.ProxyProtoConnPolicy != nil:
		return fmt.Errorf("the server block takes the PROXY protocol")
	case len(c.TsigSecret) > 0:
		return fmt.Errorf("the server block has TSIG keys")
	}
	handlers := c.Handlers()
	if len(handlers) != len(c.Plugin) {
		return fmt.Errorf("of %d plugins only %d are known by name", len(c.Plugin), len(handlers))
	}
	for _, other := range handlers {
		if other == h {
			break
		}
		if !slices.Contains(harmless, other.Name()) {
			return fmt.Errorf("plugin %s stands before it", other.Name())
		}
		switch p := other.(type) {
		case loadbalance.LoadBalance:
			if !shufflesAtRandom(p) {
				return fmt.Errorf("plugin loadbalance has a policy other than round_robin")
			}
			h.rotates = true
		case *coremetrics.Metrics:
			h.prometheus = p
		}
	}
	return nil
}

// shufflesAtRandom tells the plain policy from the others, which the plugin keeps as a function and shows to nobody.
func shufflesAtRandom(p loadbalance.LoadBalance) bool {
	shuffle := reflect.ValueOf(p).FieldByName("shuffle")
	if !shuffle.IsValid() || shuffle.Kind() != reflect.Func {
		return false
	}
	f := runtime.FuncForPC(shuffle.Pointer())
	return f != nil && strings.HasSuffix(f.Name(), "loadbalance.randomShuffle")
}
