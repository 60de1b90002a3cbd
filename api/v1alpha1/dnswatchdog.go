package v1alpha1

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// KindDNSWatchdog configures the watchdog of one node's DNS.
const KindDNSWatchdog = "DNSWatchdog"

// DNSWatchdog is what `seakeep-dns watchdog --config` reads: which server to probe, by which questions, which backup to
// switch to, and how.
type DNSWatchdog struct {
	TypeMeta `json:",inline"`
	// Zone is the cluster's domain. Default cluster.local.
	Zone string `json:"zone,omitempty"`
	// Primary is seakeep-dns.
	Primary DNSWatchdogPrimary `json:"primary"`
	// Backup is another DNS program, with the zone that seakeep-dns exports.
	Backup DNSWatchdogBackup `json:"backup"`
	// Names are asked for beside the TXT record dns-version of the zone. Default: the address of
	// kubernetes.default.svc in the zone. A name that comes and goes switches DNS to and fro.
	Names []DNSWatchdogName `json:"names,omitempty"`
	// Interval is the time between two rounds of questions. Default 1s, 100ms–1m.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Timeout is how long an answer may take. Default 500ms, 10ms–10s, at most the interval.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// FailAfter is how many bad rounds in a row make seakeep-dns dead. Default 3, 1–100. Clients wait for
	// failAfter × (interval + timeout) at most; one lost packet is a bad round, so 1 switches by chance.
	FailAfter int `json:"failAfter,omitempty"`
	// RecoverAfter is how many good rounds in a row make it well again. Default 10, 1–1000.
	RecoverAfter int `json:"recoverAfter,omitempty"`
	// MinimumHold is the least time on the backup; up to half of it is added by chance, so that the nodes of a cluster
	// do not switch back together. Default 30s, 0–24h.
	MinimumHold *metav1.Duration `json:"minimumHold,omitempty"`
	// AllowedLag is how much older than the data seakeep-dns serves the backup's may be, when seakeep-dns still answers
	// something. Default 10m, 1m–24h; the exporter renews its files every 5m.
	AllowedLag *metav1.Duration `json:"allowedLag,omitempty"`
	// Switch is how clients are moved: exactly one way.
	Switch DNSWatchdogSwitch `json:"switch"`
	// ListenAddress serves /metrics, /state and /healthz in plain HTTP, on loopback only. Empty: no such listener.
	ListenAddress string `json:"listenAddress,omitempty"`
}

// DNSWatchdogPrimary is seakeep-dns.
type DNSWatchdogPrimary struct {
	// Address is where clients ask it, IP:port.
	Address string `json:"address"`
	// StateAddress is the host:port of its option state. With it, the watchdog knows how old the data is that is
	// served. Empty: it does not, and takes any backup that answers.
	StateAddress string `json:"stateAddress,omitempty"`
}

// DNSWatchdogBackup is the other DNS program.
type DNSWatchdogBackup struct {
	// Address is where it listens, IP:port.
	Address string `json:"address"`
	// ZoneFiles are what seakeep-dns exports, and the backup serves. When one is replaced, the backup is told.
	ZoneFiles []DNSWatchdogZone `json:"zoneFiles,omitempty"`
	// Reload tells a backup that somebody else runs that a zone file was replaced: a program and its arguments, such as
	// [unbound-control, auth_zone_reload, cluster.local]. It has 10 s.
	Reload []string `json:"reload,omitempty"`
	// Unbound, if set, lets the watchdog run unbound itself.
	Unbound *DNSWatchdogUnbound `json:"unbound,omitempty"`
}

// DNSWatchdogZone is a zone and its file.
type DNSWatchdogZone struct {
	Zone string `json:"zone"`
	File string `json:"file"`
}

// DNSWatchdogUnbound is an unbound that the watchdog runs, with a configuration it writes.
type DNSWatchdogUnbound struct {
	// Path of the program. Default unbound, looked for in PATH.
	Path string `json:"path,omitempty"`
	// ControlPath is that of unbound-control. Default unbound-control.
	ControlPath string `json:"controlPath,omitempty"`
	// Directory is where its configuration goes; the watchdog makes it.
	Directory string `json:"directory"`
	// User it runs as; it must be able to read the zone files and to enter the directory. Empty: the watchdog's own.
	User string `json:"user,omitempty"`
	// Forward are the resolvers, IP or IP:port, for names outside the cluster. Empty: such names are refused.
	Forward []string `json:"forward,omitempty"`
	// Allow are the networks that may ask. Default: the private ones (10/8, 172.16/12, 192.168/16, 100.64/10,
	// 169.254/16, 127/8, fc00::/7, ::1).
	Allow []string `json:"allow,omitempty"`
}

// DNSWatchdogName is a question and what a good answer to it is.
type DNSWatchdogName struct {
	// Name, fully qualified.
	Name string `json:"name"`
	// Type is A, AAAA, SRV or TXT. Default A.
	Type string `json:"type,omitempty"`
	// Want are addresses, all of which the answer must hold; for A and AAAA only. Empty: at least one record.
	Want []string `json:"want,omitempty"`
}

// DNSWatchdogSwitch is one of its fields.
type DNSWatchdogSwitch struct {
	// NFTables redirects what is sent to the primary's address and port to the backup's port at the same address, in a
	// table of its own. The backup must listen at the primary's IP; the watchdog needs CAP_NET_ADMIN.
	NFTables *DNSWatchdogNFTables `json:"nftables,omitempty"`
	// Command runs programs.
	Command *DNSWatchdogCommand `json:"command,omitempty"`
}

// DNSWatchdogNFTables is a redirect by nftables.
type DNSWatchdogNFTables struct {
	// Path of nft. Default nft, looked for in PATH.
	Path string `json:"path,omitempty"`
	// Table is the name of the table of family inet, which is the watchdog's alone. Default seakeep_dns.
	Table string `json:"table,omitempty"`
}

// DNSWatchdogCommand is a pair of programs with their arguments. Both must do nothing when it is done already.
type DNSWatchdogCommand struct {
	Engage  []string `json:"engage"`
	Release []string `json:"release"`
	// Timeout after which a program is killed. Default 10s, 1s–5m.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// SetDefaults implements Object.
func (c *DNSWatchdog) SetDefaults() {
	defaultText(&c.Zone, "cluster.local")
	if len(c.Names) == 0 {
		c.Names = []DNSWatchdogName{{Name: "kubernetes.default.svc." + c.Zone}}
	}
	for i := range c.Names {
		defaultText(&c.Names[i].Type, "A")
	}
	defaultDuration(&c.Interval, time.Second)
	defaultDuration(&c.Timeout, 500*time.Millisecond)
	defaultDuration(&c.MinimumHold, 30*time.Second)
	defaultDuration(&c.AllowedLag, 10*time.Minute)
	if c.FailAfter == 0 {
		c.FailAfter = 3
	}
	if c.RecoverAfter == 0 {
		c.RecoverAfter = 10
	}
	if u := c.Backup.Unbound; u != nil {
		defaultText(&u.Path, "unbound")
		defaultText(&u.ControlPath, "unbound-control")
		if len(u.Allow) == 0 {
			u.Allow = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "127.0.0.0/8", "fc00::/7", "::1/128"}
		}
	}
	if n := c.Switch.NFTables; n != nil {
		defaultText(&n.Path, "nft")
		defaultText(&n.Table, "seakeep_dns")
	}
	if s := c.Switch.Command; s != nil {
		defaultDuration(&s.Timeout, 10*time.Second)
	}
}

func defaultText(s *string, to string) {
	if *s == "" {
		*s = to
	}
}

func defaultDuration(d **metav1.Duration, to time.Duration) {
	if *d == nil {
		*d = &metav1.Duration{Duration: to}
	}
}

// Validate implements Object.
func (c *DNSWatchdog) Validate() field.ErrorList {
	errs := validateDomain(c.Zone, field.NewPath("zone"))
	primary, backup := field.NewPath("primary"), field.NewPath("backup")
	errs = append(errs, validateIPPort(c.Primary.Address, primary.Child("address"))...)
	if c.Primary.StateAddress != "" {
		errs = append(errs, validateAddress(c.Primary.StateAddress, primary.Child("stateAddress"))...)
	}
	errs = append(errs, validateIPPort(c.Backup.Address, backup.Child("address"))...)
	if c.Primary.Address != "" && c.Backup.Address == c.Primary.Address {
		errs = append(errs, field.Invalid(backup.Child("address"), c.Backup.Address, "must differ from primary.address"))
	}
	errs = append(errs, c.Backup.validate(backup)...)
	for i, n := range c.Names {
		errs = append(errs, n.validate(field.NewPath("names").Index(i))...)
	}
	errs = append(errs, durationBetween(c.Interval, 100*time.Millisecond, time.Minute, field.NewPath("interval"))...)
	errs = append(errs, durationBetween(c.Timeout, 10*time.Millisecond, min(10*time.Second, c.Interval.Duration), field.NewPath("timeout"))...)
	errs = append(errs, durationBetween(c.MinimumHold, 0, 24*time.Hour, field.NewPath("minimumHold"))...)
	errs = append(errs, durationBetween(c.AllowedLag, time.Minute, 24*time.Hour, field.NewPath("allowedLag"))...)
	if n := c.FailAfter; n < 1 || n > 100 {
		errs = append(errs, field.Invalid(field.NewPath("failAfter"), n, "must be 1–100"))
	}
	if n := c.RecoverAfter; n < 1 || n > 1000 {
		errs = append(errs, field.Invalid(field.NewPath("recoverAfter"), n, "must be 1–1000"))
	}
	errs = append(errs, c.validateSwitch(field.NewPath("switch"))...)
	if c.ListenAddress != "" {
		path := field.NewPath("listenAddress")
		errs = append(errs, validateAddress(c.ListenAddress, path)...)
		if !IsLoopback(c.ListenAddress) {
			errs = append(errs, field.Invalid(path, c.ListenAddress, "must be a loopback address: it is served without authentication"))
		}
	}
	return errs
}

func (b *DNSWatchdogBackup) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, z := range b.ZoneFiles {
		errs = append(errs, validateDomain(z.Zone, path.Child("zoneFiles").Index(i).Child("zone"))...)
		errs = append(errs, validatePath(z.File, path.Child("zoneFiles").Index(i).Child("file"), "the file that seakeep-dns exports")...)
	}
	u := b.Unbound
	if u == nil {
		return errs
	}
	if len(b.Reload) > 0 {
		errs = append(errs, field.Forbidden(path.Child("reload"), "the watchdog reloads the unbound that it runs itself"))
	}
	if len(b.ZoneFiles) == 0 {
		errs = append(errs, field.Required(path.Child("zoneFiles"), "unbound must have something to serve"))
	}
	path = path.Child("unbound")
	errs = append(errs, validatePath(u.Directory, path.Child("directory"), "where unbound's configuration goes")...)
	if strings.ContainsFunc(u.User, notPlain) {
		errs = append(errs, field.Invalid(path.Child("user"), u.User, "must be the name of a user"))
	}
	for i, f := range u.Forward {
		if _, err := netip.ParseAddr(f); err != nil {
			errs = append(errs, validateIPPort(f, path.Child("forward").Index(i))...)
		}
	}
	for i, a := range u.Allow {
		if _, err := netip.ParsePrefix(a); err != nil {
			errs = append(errs, field.Invalid(path.Child("allow").Index(i), a, "must be a network such as 10.0.0.0/8"))
		}
	}
	return errs
}

func (n *DNSWatchdogName) validate(path *field.Path) field.ErrorList {
	errs := validateDomain(n.Name, path.Child("name"))
	types := []string{"A", "AAAA", "SRV", "TXT"}
	if !slices.Contains(types, n.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), n.Type, types))
	}
	for i, w := range n.Want {
		ip, err := netip.ParseAddr(w)
		if err != nil || ip.Is4() != (n.Type == "A") || n.Type != "A" && n.Type != "AAAA" {
			errs = append(errs, field.Invalid(path.Child("want").Index(i), w, "must be an address of the type asked for"))
		}
	}
	return errs
}

func (c *DNSWatchdog) validateSwitch(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := c.Switch
	if (s.NFTables == nil) == (s.Command == nil) {
		return append(errs, field.Invalid(path, "", "must have either nftables or command"))
	}
	if n := s.NFTables; n != nil {
		if n.Table == "" || strings.ContainsFunc(n.Table, notPlain) || n.Table[0] >= '0' && n.Table[0] <= '9' || strings.Contains(n.Table, "-") {
			errs = append(errs, field.Invalid(path.Child("nftables", "table"), n.Table, "must be letters, digits and _, a letter first"))
		}
		from, _ := netip.ParseAddrPort(c.Primary.Address)
		to, _ := netip.ParseAddrPort(c.Backup.Address)
		if from.Addr() != to.Addr() {
			errs = append(errs, field.Invalid(field.NewPath("backup", "address"), c.Backup.Address,
				"must be at the IP of primary.address: nftables changes the port only, so that what is on its way is moved too"))
		}
	}
	if s := s.Command; s != nil {
		p := path.Child("command")
		for name, args := range map[string][]string{"engage": s.Engage, "release": s.Release} {
			if len(args) == 0 || args[0] == "" {
				errs = append(errs, field.Required(p.Child(name), "a program and its arguments"))
			}
		}
		errs = append(errs, durationBetween(s.Timeout, time.Second, 5*time.Minute, p.Child("timeout"))...)
	}
	return errs
}

func durationBetween(d *metav1.Duration, least, most time.Duration, path *field.Path) field.ErrorList {
	if d.Duration < least || d.Duration > most {
		return field.ErrorList{field.Invalid(path, d.Duration.String(), "must be between "+least.String()+" and "+most.String())}
	}
	return nil
}

func validateIPPort(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "IP:port")}
	}
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = netip.ParseAddr(host)
	}
	if n, convErr := strconv.Atoi(port); err != nil || convErr != nil || n < 1 || n > 65535 {
		return field.ErrorList{field.Invalid(path, value, "must be IP:port, as in 169.254.20.10:53: a name would need the DNS that is watched")}
	}
	return nil
}

func notPlain(c rune) bool {
	return c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
}

// validateDomain refuses what could be more than a name in the file that it is written into.
func validateDomain(name string, path *field.Path) field.ErrorList {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 || len(name) > 253 || strings.ContainsFunc(label, notPlain) {
			return field.ErrorList{field.Invalid(path, name, "must be a domain name")}
		}
	}
	return nil
}

func validatePath(name string, path *field.Path, why string) field.ErrorList {
	if errs := required(name, path, why); errs != nil {
		return errs
	}
	if name[0] != '/' || strings.ContainsAny(name, "\"\n\r") {
		return field.ErrorList{field.Invalid(path, name, "must be an absolute path without quotes and line breaks")}
	}
	return nil
}
