package v1alpha1

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestPeersValidation(t *testing.T) {
	good := GatePeers{Bind: "10.0.0.1:7946", Join: []string{"gates.internal:7946"}, KeyFile: "/etc/seakeep/peers.key"}
	for name, tc := range map[string]struct {
		change func(*GatePeers)
		want   string
	}{
		"good":            {func(*GatePeers) {}, ""},
		"everywhere":      {func(p *GatePeers) { p.Bind = "0.0.0.0:7946" }, ""},
		"no bind":         {func(p *GatePeers) { p.Bind = "" }, "peers.bind"},
		"a name to bind":  {func(p *GatePeers) { p.Bind = "gate-a:7946" }, "peers.bind"},
		"no port":         {func(p *GatePeers) { p.Bind = "10.0.0.1:0" }, "peers.bind"},
		"a bad advertise": {func(p *GatePeers) { p.Advertise = "here" }, "peers.advertise"},
		"nobody to join":  {func(p *GatePeers) { p.Join = nil }, "peers.join"},
		"a bad join":      {func(p *GatePeers) { p.Join = []string{"gates"} }, "peers.join[0]"},
		"no key":          {func(p *GatePeers) { p.KeyFile = "" }, "peers.keyFile"},
		"a bad name":      {func(p *GatePeers) { p.Name = "gate a" }, "peers.name"},
		"bad budgets":     {func(p *GatePeers) { p.Budgets = "Both" }, "peers.budgets"},
		"forgets at once": {func(p *GatePeers) { p.ForgetAfter = &metav1.Duration{Duration: time.Second} }, "peers.forgetAfter"},
	} {
		t.Run(name, func(t *testing.T) {
			p := good
			tc.change(&p)
			p.setDefaults()
			wantOne(t, p.validate(field.NewPath("peers")), tc.want)
		})
	}
}

func TestServiceValidation(t *testing.T) {
	for name, tc := range map[string]struct {
		service GateService
		want    string
	}{
		"good":            {GateService{Address: "10.0.0.1"}, ""},
		"IPv6":            {GateService{Address: "fd00::1", Port: 6443, Name: "a"}, ""},
		"no address":      {GateService{}, "service.address"},
		"a name":          {GateService{Address: "gate"}, "service.address"},
		"loopback":        {GateService{Address: "127.0.0.1"}, "service.address"},
		"mapped":          {GateService{Address: "::ffff:10.0.0.1"}, "service.address"},
		"a bad port":      {GateService{Address: "10.0.0.1", Port: 70000}, "service.port"},
		"a bad name":      {GateService{Address: "10.0.0.1", Name: "Gate_A"}, "service.name"},
		"a short lease":   {GateService{Address: "10.0.0.1", LeaseDuration: &metav1.Duration{Duration: 4 * time.Second}}, "service.leaseDuration"},
		"a bad domain":    {GateService{Address: "10.0.0.1", ClusterDomain: "a b"}, "service.clusterDomain"},
		"a busy interval": {GateService{Address: "10.0.0.1", Interval: &metav1.Duration{Duration: time.Millisecond}}, "service.interval"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.service.setDefaults()
			wantOne(t, tc.service.validate(field.NewPath("service")), tc.want)
		})
	}
}

// wantOne wants one violation, of the field, or none.
func wantOne(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	if want == "" {
		if len(errs) > 0 {
			t.Errorf("refused: %v", errs.ToAggregate())
		}
		return
	}
	if len(errs) != 1 || errs[0].Field != want && !strings.HasPrefix(errs[0].Field, want) {
		t.Errorf("got %v, want one violation of %s", errs.ToAggregate(), want)
	}
}
