package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/peers"
)

func TestGatePeers(t *testing.T) {
	third, offset := 1.0/3, 0.04
	status := peers.Status{
		Taken: time.Now(), Enabled: true, Name: "a", Address: "10.0.0.1:7946", Open: true, Budgets: "Shared", Share: third, Agreed: true, Rules: 2, Lifts: 1,
		Gates: []peers.Gate{
			{Name: "b", Address: "10.0.0.2:7946", State: peers.Reachable, Share: &third, ClockOffsetSeconds: &offset},
			{Name: "c", State: peers.Away, AwaySeconds: 75, Share: &third},
		},
	}
	socket := serveAdmin(t, map[string]any{"/v1/peers": &status})

	code, stdout, stderr := runVerb(t, "gate", "peers", "--socket", socket)
	if code != ExitOK {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"share 33.3% (agreed); 2 rules and 1 lifts shared", "b     10.0.0.2:7946  reachable  -      33.3%  +0.0s", "c     -              away       1m15s  33.3%  -"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it lacks %q:\n%s", want, stdout)
		}
	}
	status.Problems = []string{"no gate at c:7946 can be joined"}
	code, stdout, _ = runVerb(t, "gate", "peers", "--socket", socket, "-o", "json")
	var got peers.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got.Gates) != 2 || code != ExitFindings {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
}

func TestGateWatchdogUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no kubeconfig":   {nil, "--kubeconfig is required"},
		"no API server":   {[]string{"--kubeconfig", "x"}, "--api-server is required"},
		"a hasty one":     {[]string{"--kubeconfig", "x", "--api-server", "10.0.0.1:6443", "--interval", "1ms"}, "interval must be"},
		"an odd output":   {[]string{"--kubeconfig", "x", "--api-server", "10.0.0.1:6443", "-o", "yaml"}, "output must be"},
		"no such file":    {[]string{"--kubeconfig", "/no/such", "--api-server", "10.0.0.1:6443"}, "reading /no/such"},
		"a stray operand": {[]string{"x"}, "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := runVerb(t, append([]string{"gate", "watchdog"}, tc.args...)...)
			if code != ExitUsage || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}
