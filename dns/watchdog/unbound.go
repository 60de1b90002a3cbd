package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// unbound is one that the watchdog runs: started again when it ends, ended with the watchdog.
type unbound struct {
	c       *v1alpha1.DNSWatchdog
	o       *v1alpha1.DNSWatchdogUnbound
	log     *slog.Logger
	started func()
}

// againAfter is how long after its end unbound is started again. It is not raised with each failure: unbound that cannot
// start costs little, and clients may be waiting for it.
const againAfter = time.Second

func (u *unbound) file() string { return filepath.Join(u.o.Directory, "unbound.conf") }

// control are the arguments of unbound-control.
func (u *unbound) control(args ...string) []string {
	return append([]string{u.o.ControlPath, "-c", u.file()}, args...)
}

// run runs unbound until ctx ends.
func (u *unbound) run(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		if err := u.write(); err != nil {
			u.log.Error("Writing unbound's configuration", "reason", err)
		} else if u.ready() {
			u.started()
			err := u.once(ctx)
			if ctx.Err() == nil {
				u.log.Error("Unbound ended, starting it again", "reason", err)
			}
		} else if first {
			u.log.Info("Waiting for the zone files before unbound is started")
		}
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// ready is true when every zone file is there: unbound would serve an empty zone for one that is not.
func (u *unbound) ready() bool {
	for _, z := range u.c.Backup.ZoneFiles {
		if _, err := os.Stat(z.File); errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

func (u *unbound) once(ctx context.Context) error {
	c := exec.CommandContext(ctx, u.o.Path, "-d", "-c", u.file())
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 5 * time.Second
	c.Stdout, c.Stderr = &lineLog{log: u.log}, &lineLog{log: u.log}
	return c.Run()
}

// write makes the folder and the configuration. What goes into it was validated: names, addresses and paths hold neither
// quotes nor line breaks.
func (u *unbound) write() error {
	if err := os.MkdirAll(u.o.Directory, 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(u.file(), []byte(u.config()), 0o644)
}

func (u *unbound) config() string {
	at := netip.MustParseAddrPort(u.c.Backup.Address)
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by seakeep-dns watchdog; it will be overwritten.
server:
  interface: %s@%d
  port: %[2]d
  directory: "%s"
  chroot: ""
  pidfile: ""
  username: "%s"
  do-daemonize: no
  use-syslog: no
  logfile: ""
  log-servfail: no
  num-threads: 1
  module-config: "iterator"
  do-not-query-localhost: no
  # Anchors of trust and root servers are the world's: a node without a way out must serve the cluster's names.
  target-fetch-policy: "0 0 0 0 0"
  # What is outside is given when it is old rather than not at all.
  cache-max-negative-ttl: 5
  serve-expired: yes
  serve-expired-ttl: 86400
  serve-expired-client-timeout: 1800
  prefetch: yes
`, at.Addr(), at.Port(), u.o.Directory, u.o.User)
	for _, network := range u.o.Allow {
		fmt.Fprintf(&b, "  access-control: %s allow\n", network)
	}
	outside := len(u.o.Forward) > 0
	if !outside {
		fmt.Fprintf(&b, "  local-zone: \".\" refuse\n")
	}
	for _, z := range u.c.Backup.ZoneFiles {
		// unbound refuses reverse names of private networks unless told that they are somebody's.
		kind := "transparent"
		if strings.HasSuffix(strings.TrimSuffix(z.Zone, "."), ".arpa") {
			kind = "nodefault"
		}
		if !outside {
			kind = "transparent"
		}
		fmt.Fprintf(&b, "  local-zone: \"%s\" %s\n", z.Zone, kind)
	}
	fmt.Fprintf(&b, "remote-control:\n  control-enable: yes\n  control-use-cert: no\n  control-interface: \"%s\"\n", filepath.Join(u.o.Directory, "control"))
	for _, z := range u.c.Backup.ZoneFiles {
		// for-upstream: a resolver asks the zone, so that an alias that leads out of it is followed, as CoreDNS does for
		// clients that do not follow aliases themselves. The price is a cache: a change shows after the zone's TTL.
		fmt.Fprintf(&b, "auth-zone:\n  name: \"%s\"\n  zonefile: \"%s\"\n  for-downstream: no\n  for-upstream: yes\n  fallback-enabled: no\n", z.Zone, z.File)
	}
	if outside {
		fmt.Fprintf(&b, "forward-zone:\n  name: \".\"\n")
		for _, f := range u.o.Forward {
			if at, err := netip.ParseAddrPort(f); err == nil {
				f = fmt.Sprintf("%s@%d", at.Addr(), at.Port())
			}
			fmt.Fprintf(&b, "  forward-addr: %s\n", f)
		}
	}
	return b.String()
}

// lineLog passes on what a program prints, a line at a time, no line longer than 4 kB.
type lineLog struct {
	log  *slog.Logger
	line []byte
}

// Write implements io.Writer.
func (l *lineLog) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && len(l.line) < 4096 {
			l.line = append(l.line, c)
			continue
		}
		l.log.Info("Unbound says", "line", string(l.line))
		l.line = l.line[:0]
	}
	return len(p), nil
}
