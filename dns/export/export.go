package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// Options say what to write. At least one file must be named.
type Options struct {
	// Zone is the cluster's, "cluster.local".
	Zone string
	// ZoneFile is where the zone goes, HostsFile where the hosts file goes; empty: nowhere.
	ZoneFile, HostsFile string
	// ReverseFiles are the reverse zones ("96.10.in-addr.arpa") and where each goes.
	ReverseFiles map[string]string
	// NameServers are the addresses of the zone's name server; default: the cluster IPs of the service
	// kube-system/kube-dns, else 127.0.0.1. A zone whose name server has no address is refused by BIND.
	NameServers []netip.Addr
	// TTL of all records, 1 s–1 h in whole seconds; default 5 s, CoreDNS's.
	TTL time.Duration
	// Interval is the least time between two writes, ≥ 1 s; default 10 s. What changes meanwhile is written together.
	Interval time.Duration
	// Renew is after which time files are written although nothing changed, so that the time they state moves on;
	// default 5 min.
	Renew time.Duration

	Data       keeper.Data
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Exporter writes the files.
type Exporter struct {
	o       Options
	metrics *metrics
	changed atomic.Bool
}

// setDefaults fills what is not set.
func (o *Options) setDefaults() {
	o.Zone = strings.TrimSuffix(strings.ToLower(o.Zone), ".")
	o.TTL, o.Interval, o.Renew = cmp.Or(o.TTL, 5*time.Second), cmp.Or(o.Interval, 10*time.Second), cmp.Or(o.Renew, 5*time.Minute)
}

// Validate says what is wrong with what is to be written, before there is any data.
func (o Options) Validate() error {
	o.setDefaults()
	switch {
	case !labels(o.Zone):
		return fmt.Errorf("zone must be a domain name, got %q", o.Zone)
	case o.ZoneFile == "" && o.HostsFile == "" && len(o.ReverseFiles) == 0:
		return errors.New("at least one file to export to must be named")
	case o.TTL < time.Second || o.TTL > time.Hour || o.TTL%time.Second != 0:
		return fmt.Errorf("ttl must be 1s–1h in whole seconds, got %s", o.TTL)
	case o.Interval < time.Second:
		return fmt.Errorf("interval must be ≥ 1s, got %s", o.Interval)
	}
	for zone := range o.ReverseFiles {
		if !labels(zone) || !strings.HasSuffix(zone, ".in-addr.arpa") && !strings.HasSuffix(zone, ".ip6.arpa") {
			return fmt.Errorf("a reverse zone must end in .in-addr.arpa or .ip6.arpa, got %q", zone)
		}
	}
	return nil
}

// New checks the options. Nothing is written before Run.
func New(o Options) (*Exporter, error) {
	o.setDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	e := &Exporter{o: o, metrics: newMetrics(o.Registerer)}
	e.changed.Store(true)
	return e, nil
}

// Run writes the files when the data has changed, until the context ends; then once more if it has changed since.
func (e *Exporter) Run(ctx context.Context) {
	cancel := e.o.Data.Store().Subscribe(func(store.Changes) { e.changed.Store(true) })
	defer cancel()
	tick := time.NewTicker(e.o.Interval)
	defer tick.Stop()
	var written time.Time
	for {
		now := e.o.Clock()
		// Without data there is nothing better than what a file may still have from before.
		if e.o.Data.Status().Ready() && (e.changed.Load() || now.Sub(written) >= e.o.Renew) {
			e.write(now)
			written = now
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if e.o.Data.Status().Ready() && e.changed.Load() {
				e.write(e.o.Clock())
			}
			return
		}
	}
}

// write writes every file. One that cannot be written keeps what it had, is counted, and does not hold the others up.
func (e *Exporter) write(now time.Time) {
	e.changed.Store(false)
	status, view := e.o.Data.Status(), e.o.Data.Store().View()
	h := header{
		zone: e.o.Zone, ttl: int(e.o.TTL / time.Second),
		serial:      uint32(e.o.Data.Store().Modified(store.Internal)),
		nameServers: e.nameServers(view),
		source:      cmp.Or(status.Source, string(status.Class)), state: string(status.State),
		confirmed: status.Confirmed, exported: now,
	}
	files := map[string]func(io.Writer) error{}
	if e.o.ZoneFile != "" {
		files[e.o.ZoneFile] = func(w io.Writer) error { return writeZone(w, view, h) }
	}
	if e.o.HostsFile != "" {
		files[e.o.HostsFile] = func(w io.Writer) error { return writeHosts(w, view, h) }
	}
	for zone, file := range e.o.ReverseFiles {
		files[file] = func(w io.Writer) error { return writeReverse(w, view, h, zone) }
	}
	failed := false
	for file, fill := range files {
		if err := replace(file, fill); err != nil {
			failed = true
			e.o.Log.Error("Exporting, the file keeps what it had", "file", file, "reason", err)
		}
	}
	e.metrics.wrote(now, !failed)
	if failed {
		e.changed.Store(true) // again at the next tick
	}
}

func (e *Exporter) nameServers(v *store.View) []netip.Addr {
	if len(e.o.NameServers) > 0 {
		return e.o.NameServers
	}
	if s := v.Service("kube-system", "kube-dns"); s != nil && len(s.ClusterIPs) > 0 {
		return s.ClusterIPs
	}
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

// fileMode lets other programs read the files: unbound and BIND run as users of their own, and what is in them anybody
// in the cluster can ask for.
const fileMode = 0o644

func replace(file string, fill func(io.Writer) error) error {
	f, err := renameio.NewPendingFile(file, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(fileMode))
	if err != nil {
		return fmt.Errorf("making a file beside it: %w", err)
	}
	if err := fill(f); err != nil {
		return errors.Join(fmt.Errorf("writing: %w", err), f.Cleanup())
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return errors.Join(fmt.Errorf("renaming it into place: %w", err), f.Cleanup())
	}
	return nil
}
