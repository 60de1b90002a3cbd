// Command seakeep-dns is CoreDNS with the plugin seakeep, the plugins of a stock Kubernetes Corefile and of a node-level
// cache, and no others: `seakeep-dns -conf Corefile`, `-version`, `-plugins`. `seakeep-dns state` and `seakeep-dns guard`
// speak to one that runs; `seakeep-dns watchdog` watches over one; `seakeep-dns relay-certificates` makes what relays and their
// clients need.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// The plugins. Importing core/plugin instead would bring the clients of three clouds and of etcd, and with them their
	// vulnerabilities.
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dnstap" // forward brings it
	_ "github.com/coredns/coredns/plugin/erratic"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/k8s_external"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/pprof"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/transfer" // kubernetes and file bring it
	_ "github.com/coredns/coredns/plugin/whoami"

	_ "github.com/seakeep/seakeep/dns/plugin"
	"github.com/seakeep/seakeep/dns/plugin/control"
	"github.com/seakeep/seakeep/dns/relay/credentials"
	"github.com/seakeep/seakeep/dns/watchdog"
)

// plugins are the directives of the imports above. Their order is CoreDNS's own, which its Directives list holds: order
// is behaviour, so it is never restated here. Ours stands where kubernetes does.
var plugins = []string{
	"root", "metadata", "cancel", "reload", "bufsize", "bind", "debug", "ready", "health", "pprof", "prometheus", "errors",
	"log", "dnstap", "acl", "any", "autopath", "loadbalance", "cache", "rewrite", "header", "minimal", "template", "transfer", "hosts",
	"k8s_external", "seakeep", "kubernetes", "file", "loop", "forward", "erratic", "whoami",
}

func main() {
	if args := os.Args[1:]; control.Is(args) {
		os.Exit(control.Run(context.Background(), args, os.Stdout, os.Stderr))
	}
	if args := os.Args[1:]; watchdog.Is(args) {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(watchdog.Main(ctx, args, os.Stdin, os.Stdout, os.Stderr))
	}
	if args := os.Args[1:]; credentials.Is(args) {
		os.Exit(credentials.Main(args, os.Stdout, os.Stderr))
	}
	order := slices.Clone(dnsserver.Directives)
	order = slices.Insert(order, slices.Index(order, "kubernetes"), "seakeep")
	dnsserver.Directives = slices.DeleteFunc(order, func(name string) bool { return !slices.Contains(plugins, name) })
	coremain.Run()
}
