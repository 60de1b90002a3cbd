package many

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/peers"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func (p *process) status() peers.Status {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir, "admin.sock"))
	}}}
	var s peers.Status
	response, err := client.Get("http://gate/v1/peers")
	if err != nil {
		return s
	}
	defer response.Body.Close()
	_ = json.NewDecoder(response.Body).Decode(&s)
	return s
}

// blocked says whether the gate turns a user's requests away.
func blocked(t *testing.T, l *lab.Lab, p *process, id lab.Identity) bool {
	t.Helper()
	c := rest.CopyConfig(l.RESTConfig(id))
	c.Host, c.Timeout = "https://"+p.address, 10*time.Second
	_, err := gatetest.Clientset(t, c).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
	return err != nil && strings.Contains(err.Error(), "Seakeep emergency rule")
}

// Three gates: a rule set on one turns requests away on all within two seconds, so does a lift; one that was killed learns
// when it is back what it missed; budgets are divided.
func TestRulesAreInForceOnAllGates(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	gates := together(t, l, 3)
	startAll(t, gates)
	thirds := func() bool {
		for _, g := range gates {
			if s := g.status(); s.Share < 0.33 || s.Share > 0.34 || !s.Agreed {
				return false
			}
		}
		return true
	}
	testkit.Within(t, "each has a third of every budget", 20*time.Second, thirds)

	mallory := lab.User("mallory")
	set := func(on *process) string {
		result, err := on.operator.Set(t.Context(), &v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"mallory"}},
			Reason: "test", Duration: metav1.Duration{Duration: time.Hour}}, false)
		check(t, err)
		return result.Rule.ID
	}
	began := time.Now()
	id := set(gates[0])
	for _, g := range gates {
		testkit.Within(t, "requests are turned away by "+g.name, 2*time.Second, func() bool { return blocked(t, l, g, mallory) })
	}
	t.Logf("in force on all three after %s", time.Since(began))

	gates[2].kill(syscall.SIGKILL)
	began = time.Now()
	_, err := gates[1].operator.Lift(t.Context(), id, "over")
	check(t, err)
	testkit.Within(t, "it is lifted on the other", 2*time.Second, func() bool { return !gates[0].has(id) && !blocked(t, l, gates[0], mallory) })
	t.Logf("lifted after %s", time.Since(began))
	missed := set(gates[1])
	testkit.Within(t, "the killed one is away", 20*time.Second, func() bool {
		for _, g := range gates[0].status().Gates {
			if g.Name == "gate-2" && g.State == peers.Away {
				return true
			}
		}
		return false
	})
	testkit.Within(t, "with one away a gate has the third of every budget that it had", 10*time.Second, func() bool {
		s := gates[0].status()
		return s.Share >= 0.33 && s.Share <= 0.34
	})
	gates[2].start() // with the lifted rule on its disk
	testkit.Within(t, "it has learned what it missed", 20*time.Second, func() bool { return gates[2].has(missed) && !gates[2].has(id) })
	testkit.Within(t, "each has a third again", 20*time.Second, thirds)
	for _, g := range gates {
		if g.has(id) {
			t.Errorf("the lifted rule is back on %s", g.name)
		}
	}
}

// A gate with another key takes no part, and serves.
func TestAnotherKeyIsRefused(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	gates := together(t, l, 2, base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")))
	startAll(t, gates)
	testkit.Within(t, "both say what is wrong", 30*time.Second, func() bool {
		return len(gates[0].status().Problems) > 0 && len(gates[1].status().Problems) > 0
	})
	result, err := gates[0].operator.Set(t.Context(), &v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"mallory"}},
		Reason: "test", Duration: metav1.Duration{Duration: time.Hour}}, false)
	check(t, err)
	for i, g := range gates {
		if s := g.status(); len(s.Gates) != 0 || s.Share != 1 {
			t.Errorf("%s: %+v", g.name, s)
		}
		if got := blocked(t, l, g, lab.User("mallory")); got != (i == 0) {
			t.Errorf("%s turns away: %t", g.name, got)
		}
	}
	if gates[1].has(result.Rule.ID) {
		t.Error("the other has the rule")
	}
}
