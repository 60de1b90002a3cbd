// Package plugin is the CoreDNS plugin seakeep, which takes the place of the plugin kubernetes: the same options, the same
// answers, from data that outlives the API server and this process. See its README.
//
// The kubernetes plugin stays the authority for what names mean: each query asks a copy of it over one View of
// dns/store. What stands around it is ours: what happens while data is incomplete or old, the name servers' records,
// and the fast path, which remembers answers as bytes and reads the UDP sockets in batches.
package plugin

import (
	"context"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

const pluginName = "seakeep"

var log = clog.NewWithPlugin(pluginName)

func init() { plugin.Register(pluginName, setup) }

// processMetrics are registered once: a reload sets up another instance of the plugin in the same process.
var processMetrics = sync.OnceValue(func() *metrics { return newMetrics(prometheus.DefaultRegisterer) })

func setup(c *caddy.Controller) error {
	k, o, err := parse(c)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	registerer, show, hide := running().enter(o.primaryZone)
	data, err := open(k, o, registerer)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	write, err := openExport(o, data, registerer)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	h := &Handler{upstream: k, data: data, run: data.Run, options: o, now: time.Now, metrics: processMetrics()}
	h.memo.data, h.memo.pods, h.memo.multicluster = data, o.podMode == podsVerified, o.multicluster

	config := dnsserver.GetConfig(c)
	config.AddPlugin(func(next plugin.Handler) plugin.Handler {
		h.next = next
		return h
	})
	h.follow(c, config, write)
	c.OnStartup(func() error { show(); return nil })
	c.OnShutdown(func() error { hide(); return nil })
	if !o.fast.off {
		h.hurry(config)
	}
	return nil
}

// follow runs the keeper, and what writes its data to files, from the server's start to its end.
func (h *Handler) follow(c *caddy.Controller, config *dnsserver.Config, write func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	var open *listeners
	c.OnStartup(func() (err error) {
		if open, err = h.listen(); err != nil {
			return plugin.Error(pluginName, err)
		}
		h.localIPs = boundIPs(config.ListenHosts)
		cancel := h.data.Store().Subscribe(h.memo.changed)
		following.Go(func() {
			defer cancel()
			if err := h.run(ctx); err != nil && ctx.Err() == nil {
				log.Errorf("Following the cluster ended: %v", err)
			}
		})
		following.Go(func() { write(ctx) })
		h.await(h.options.startup)
		return nil
	})
	c.OnShutdown(func() error {
		h.leave()
		if open != nil {
			open.close()
		}
		stop()
		following.Wait()
		return nil
	})
}

// await waits for complete data, but no longer than startup_timeout. With a snapshot there is nothing to wait for.
func (h *Handler) await(longest time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(longest)
	for !h.Ready() {
		select {
		case <-tick.C:
		case <-deadline:
			log.Warning("Starting without complete data: names of the cluster get SERVFAIL until there is")
			return
		}
	}
}

// hurry puts the fast path before each UDP server of the block, once it serves. CoreDNS has no hook for listeners; the
// one for decorating writers is called when a server begins to serve, which is the moment that is needed.
func (h *Handler) hurry(config *dnsserver.Config) {
	if config.UDPDecorateWriterFunc != nil {
		log.Info("The fast path is off: another plugin decorates the UDP server")
		return
	}
	config.UDPDecorateWriterFunc = func(s *dnsserver.Server) dns.DecorateWriter {
		if err := h.eligible(config); err != nil {
			log.Infof("The fast path of %s is off: %v", s.Addr, err)
			return nil
		}
		if err := h.stand(s, max(config.NumSockets, 1)); err != nil {
			log.Warningf("The fast path of %s is off: %v", s.Addr, err)
		}
		return nil
	}
}
