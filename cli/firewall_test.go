package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestLockdownPrintsFirewallRules(t *testing.T) {
	socket, _ := emergencyGate(t)
	const rules = "nft -f -"
	common := []string{"lockdown", "--except-group", "sre", "--for", "10m", "--reason", "INC-42", "--socket", socket}
	tests := map[string]struct {
		args           []string
		code           int
		stdout, stderr []string
		absent         string // on either stream
	}{
		"by default":               {nil, ExitOK, []string{"lockdown-", rules, "6443 timeout 600s", "nft delete table"}, nil, "iptables"},
		"sources of each sort":     {[]string{"--gate-source", "10.0.0.11,10.0.0.12", "--peer-source", "fd00::/64", "--break-glass-source", "192.0.2.7", "--allow-source", "10.1.0.0/16"}, ExitOK, []string{"gates: 10.0.0.11, 10.0.0.12", "control-plane hosts: fd00::/64", "break-glass: 192.0.2.7", "10.1.0.0/16"}, nil, ""},
		"iptables, another port":   {[]string{"--firewall", "iptables", "--api-port", "443"}, ExitOK, []string{"ip6tables", "--dports 443", "--datestop"}, nil, rules},
		"a provider's":             {[]string{"--firewall", "cloud", "--break-glass-source", "192.0.2.7"}, ExitOK, []string{"aws eks", "192.0.2.7/32"}, nil, rules},
		"none":                     {[]string{"--firewall", "none"}, ExitOK, []string{"lockdown-"}, nil, "nft"},
		"dry run":                  {[]string{"--dry-run"}, ExitOK, []string{"(dry run)"}, nil, "nft"},
		"dry run, rules asked for": {[]string{"--dry-run", "--firewall", "nftables"}, ExitOK, []string{"(dry run)", rules}, nil, ""},

		"unknown firewall":    {[]string{"--firewall", "pf"}, ExitUsage, nil, []string{"pf"}, "lockdown-"},
		"everyone":            {[]string{"--allow-source", "0.0.0.0/0"}, ExitUsage, nil, []string{"everyone"}, "lockdown-"},
		"a name":              {[]string{"--gate-source", "gate.example.com"}, ExitUsage, nil, []string{"gate.example.com"}, "lockdown-"},
		"a port out of range": {[]string{"--api-port", "70000"}, ExitUsage, nil, []string{"70000"}, "lockdown-"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, errs := runEmergency(t, append(common, tc.args...)...)
			if code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			for _, want := range tc.stdout {
				if !strings.Contains(out, want) {
					t.Errorf("standard output lacks %q:\n%s", want, out)
				}
			}
			for _, want := range tc.stderr {
				if !strings.Contains(errs, want) {
					t.Errorf("standard error lacks %q:\n%s", want, errs)
				}
			}
			if tc.absent != "" && strings.Contains(out+errs, tc.absent) {
				t.Errorf("%q is printed:\n%s%s", tc.absent, out, errs)
			}
		})
	}

	t.Run("JSON stays JSON", func(t *testing.T) {
		code, out, errs := runEmergency(t, append(common, "-o", "json")...)
		var result []map[string]any
		if err := json.Unmarshal([]byte(out), &result); code != ExitOK || err != nil || !strings.Contains(errs, rules) {
			t.Errorf("exit %d, %v\n%s%s", code, err, out, errs)
		}
	})
	t.Run("no gate answers: the rules are what is left", func(t *testing.T) {
		code, out, _ := runEmergency(t, "lockdown", "--except-group", "sre", "--for", "10m", "--reason", "INC-42", "--socket", "/nonexistent")
		if code != ExitFailure || !strings.Contains(out, rules) {
			t.Errorf("exit %d\n%s", code, out)
		}
	})
}

func TestHostsOf(t *testing.T) {
	got := hostsOf([]string{"10.0.0.1:7444", "[fd00::1]:7444", "gate.example.com:7444", "nonsense"})
	if strings.Join(got, " ") != "10.0.0.1 fd00::1" {
		t.Errorf("numeric hosts: %q", got)
	}
}
