package v1alpha1

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func goodWatchdog() *DNSWatchdog {
	return &DNSWatchdog{
		Primary: DNSWatchdogPrimary{Address: "169.254.20.10:53"},
		Backup: DNSWatchdogBackup{
			Address:   "169.254.20.10:5300",
			ZoneFiles: []DNSWatchdogZone{{Zone: "cluster.local", File: "/var/lib/seakeep-dns/export/zone"}},
			Unbound:   &DNSWatchdogUnbound{Directory: "/var/lib/backup", Forward: []string{"192.0.2.53", "192.0.2.54:5353"}},
		},
		Switch: DNSWatchdogSwitch{NFTables: &DNSWatchdogNFTables{}},
	}
}

func TestDNSWatchdogDefaults(t *testing.T) {
	c := goodWatchdog()
	c.SetDefaults()
	if errs := c.Validate(); len(errs) != 0 {
		t.Errorf("a good configuration is refused: %v", errs.ToAggregate())
	}
	if c.FailAfter != 3 || c.RecoverAfter != 10 || c.Interval.Duration != time.Second || c.Names[0].Name != "kubernetes.default.svc.cluster.local" {
		t.Errorf("defaults are %+v", c)
	}
}

func TestDNSWatchdogValidate(t *testing.T) {
	tests := map[string]struct {
		change func(*DNSWatchdog)
		want   []string
	}{
		"a name for an address":       {func(c *DNSWatchdog) { c.Primary.Address = "dns.example.com:53" }, []string{"primary.address", "backup.address"}},
		"one server":                  {func(c *DNSWatchdog) { c.Backup.Address = c.Primary.Address }, []string{"backup.address"}},
		"another IP with nftables":    {func(c *DNSWatchdog) { c.Backup.Address = "127.0.0.1:5300" }, []string{"backup.address"}},
		"no switch":                   {func(c *DNSWatchdog) { c.Switch.NFTables = nil }, []string{"switch"}},
		"two switches":                {func(c *DNSWatchdog) { c.Switch.Command = &DNSWatchdogCommand{} }, []string{"switch"}},
		"a table that is more":        {func(c *DNSWatchdog) { c.Switch.NFTables.Table = "t; flush ruleset" }, []string{"switch.nftables.table"}},
		"a zone that is more":         {func(c *DNSWatchdog) { c.Zone = "a\nb" }, []string{"zone", "names[0].name"}},
		"a file that is more":         {func(c *DNSWatchdog) { c.Backup.ZoneFiles[0].File = "/a\"\nserver:" }, []string{"backup.zoneFiles[0].file"}},
		"a relative folder":           {func(c *DNSWatchdog) { c.Backup.Unbound.Directory = "backup" }, []string{"backup.unbound.directory"}},
		"a user that is more":         {func(c *DNSWatchdog) { c.Backup.Unbound.User = "a\" b" }, []string{"backup.unbound.user"}},
		"a forwarder by name":         {func(c *DNSWatchdog) { c.Backup.Unbound.Forward = []string{"resolver"} }, []string{"backup.unbound.forward[0]"}},
		"a network that is none":      {func(c *DNSWatchdog) { c.Backup.Unbound.Allow = []string{"all"} }, []string{"backup.unbound.allow[0]"}},
		"unbound without a zone":      {func(c *DNSWatchdog) { c.Backup.ZoneFiles = nil }, []string{"backup.zoneFiles"}},
		"reload of its own unbound":   {func(c *DNSWatchdog) { c.Backup.Reload = []string{"true"} }, []string{"backup.reload"}},
		"a timeout over the interval": {func(c *DNSWatchdog) { c.Timeout = &metav1.Duration{Duration: 2 * time.Second} }, []string{"timeout"}},
		"an address of another type":  {func(c *DNSWatchdog) { c.Names = []DNSWatchdogName{{Name: "a.b", Want: []string{"fd00::1"}}} }, []string{"names[0].want[0]"}},
		"a type nobody asks":          {func(c *DNSWatchdog) { c.Names = []DNSWatchdogName{{Name: "a.b", Type: "ANY"}} }, []string{"names[0].type"}},
		"metrics for everybody":       {func(c *DNSWatchdog) { c.ListenAddress = "0.0.0.0:9255" }, []string{"listenAddress"}},
		"commands that are missing": {func(c *DNSWatchdog) {
			c.Switch = DNSWatchdogSwitch{Command: &DNSWatchdogCommand{Engage: []string{"true"}}}
		}, []string{"switch.command.release"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := goodWatchdog()
			tc.change(c)
			c.SetDefaults()
			var got []string
			for _, err := range c.Validate() {
				got = append(got, err.Field)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}
