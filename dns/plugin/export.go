package plugin

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/coredns/caddy"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/export"
	"github.com/seakeep/seakeep/dns/keeper"
)

// parseExport reads: export { zone FILE; hosts FILE; reverse ZONE FILE; nameserver IP...; interval DURATION; ttl DURATION }.
func parseExport(o *options, c *caddy.Controller) error {
	if len(c.RemainingArgs()) > 0 {
		return c.ArgErr()
	}
	eo := export.Options{Zone: o.primaryZone, ReverseFiles: map[string]string{}}
	for c.NextBlock() {
		name, args := c.Val(), c.RemainingArgs()
		read, known := exportProperties[name]
		if !known {
			return c.Errf("export: unknown property '%s'", name)
		}
		if len(args) < read.min || len(args) > read.max {
			return c.ArgErr()
		}
		if err := read.into(&eo, args); err != nil {
			return c.Errf("export: %s: %v", name, err)
		}
	}
	if err := eo.Validate(); err != nil {
		return c.Errf("export: %v", err)
	}
	o.export = &eo
	return nil
}

// exportProperties are what the block may hold: how many arguments, and what they set.
var exportProperties = map[string]struct {
	min, max int
	into     func(o *export.Options, args []string) error
}{
	"zone":       {1, 1, func(o *export.Options, args []string) error { o.ZoneFile = args[0]; return nil }},
	"hosts":      {1, 1, func(o *export.Options, args []string) error { o.HostsFile = args[0]; return nil }},
	"reverse":    {2, 2, func(o *export.Options, args []string) error { o.ReverseFiles[args[0]] = args[1]; return nil }},
	"nameserver": {1, 16, exportNameServers},
	"interval":   {1, 1, func(o *export.Options, args []string) error { return exportDuration(&o.Interval, args[0]) }},
	"ttl":        {1, 1, func(o *export.Options, args []string) error { return exportDuration(&o.TTL, args[0]) }},
}

func exportNameServers(o *export.Options, args []string) error {
	for _, arg := range args {
		ip, err := netip.ParseAddr(arg)
		if err != nil {
			return err
		}
		o.NameServers = append(o.NameServers, ip)
	}
	return nil
}

// exportDuration refuses 0, which would mean the default.
func exportDuration(to *time.Duration, text string) (err error) {
	if *to, err = time.ParseDuration(text); err == nil && *to == 0 {
		*to = -1
	}
	return err
}

// openExport makes the exporter that a stanza asks for; without one, nothing is written and run does nothing.
func openExport(o *options, data keeper.Data, registerer prometheus.Registerer) (run func(context.Context), err error) {
	if o.export == nil {
		return func(context.Context) {}, nil
	}
	eo := *o.export
	eo.Data, eo.Clock, eo.Registerer, eo.Log = data, time.Now, registerer, slog.New(coreLog{})
	e, err := export.New(eo)
	if err != nil {
		return nil, err
	}
	return e.Run, nil
}
