package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/statefile"
)

// endpoint is a running admin endpoint and the engine behind it.
type endpoint struct {
	*Server
	engine *limit.Engine
	dir    string
	stop   func()
}

func start(t *testing.T, dir string) *endpoint {
	t.Helper()
	engine := limit.New(limit.Options{})
	s, err := New(Options{
		Config: v1alpha1.GateAdmin{Socket: filepath.Join(dir, "s")}, StateDir: dir, Engine: engine, Version: "v0",
		Registerer: prometheus.NewRegistry(),
		Top: func(n int, order string) (any, error) {
			if order != "" && order != "seats" {
				return nil, fmt.Errorf("no such order %q", order)
			}
			return map[string]int{"n": n}, nil
		},
		Relay: func() any { return map[string]bool{"enabled": true} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running: %v", err)
		}
	}
	t.Cleanup(stop)
	return &endpoint{Server: s, engine: engine, dir: dir, stop: stop}
}

// call makes one call and returns the code and the body.
func (e *endpoint) call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(e.dir, "s"))
	}}}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://gate"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

const blockOfA = `{"action":"Block","match":{"users":["a"]},"reason":"INC-1","duration":"1h"}`

func (e *endpoint) set(t *testing.T, rule string) v1alpha1.EmergencyRuleResult {
	t.Helper()
	code, body := e.call(t, "POST", "/v1/rules", rule)
	var result v1alpha1.EmergencyRuleResult
	if err := json.Unmarshal([]byte(body), &result); code != http.StatusOK || err != nil {
		t.Fatalf("%d %s", code, body)
	}
	return result
}

func (e *endpoint) admits(user string) bool {
	p, _ := e.engine.Admit(&flow.Request{Caller: flow.Caller{User: user, Certainty: flow.TokenVerified}, Verb: "get", Lane: flow.Standard}, nil)
	if p != nil {
		p.Done()
	}
	return p != nil
}

func events(t *testing.T, dir string) []string {
	t.Helper()
	path := filepath.Join(dir, auditName)
	if _, err := auditlog.Verify(path); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range bytes.Lines(data) {
		var l struct {
			Event event `json:"event"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		names = append(names, l.Event.Event)
	}
	return names
}

func TestSetStatusLift(t *testing.T) {
	e := start(t, t.TempDir())
	result := e.set(t, blockOfA)
	if !result.Durable || len(result.Warnings) > 0 || !strings.HasPrefix(result.Rule.ID, "block-") ||
		!strings.HasPrefix(result.Rule.By, fmt.Sprintf("uid %d, pid %d", os.Getuid(), os.Getpid())) {
		t.Errorf("result %+v", result)
	}
	if e.admits("a") || !e.admits("b") {
		t.Error("the rule is not in force as acknowledged")
	}
	code, body := e.call(t, "GET", "/v1/status", "")
	var status v1alpha1.EmergencyStatus
	if err := json.Unmarshal([]byte(body), &status); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s %v", code, body, err)
	}
	if len(status.Rejected) != 1 || status.Rejected[0].Rule != result.Rule.ID || len(status.Rules) != 1 || status.Version != "v0" {
		t.Errorf("status %+v", status)
	}
	if !strings.HasPrefix(body, `{"rejected":`) {
		t.Errorf("the status does not begin with whom the gate rejects: %s", body)
	}
	if code, body := e.call(t, "DELETE", "/v1/rules/"+result.Rule.ID, ""); code != http.StatusBadRequest {
		t.Errorf("lifting without a reason: %d %s", code, body)
	}
	if code, body := e.call(t, "DELETE", "/v1/rules/"+result.Rule.ID+"?reason=over", ""); code != http.StatusOK || !e.admits("a") {
		t.Errorf("lifting: %d %s", code, body)
	}
	if code, _ := e.call(t, "DELETE", "/v1/rules/"+result.Rule.ID+"?reason=again", ""); code != http.StatusNotFound {
		t.Errorf("lifting again: %d", code)
	}
	if code, body := e.call(t, "GET", "/v1/rules", ""); code != http.StatusOK || body != "{\"rules\":[]}\n" {
		t.Errorf("rules: %d %s", code, body)
	}
	if got := fmt.Sprint(events(t, e.dir)); got != "[set lift]" {
		t.Errorf("audited %s", got)
	}
}

func TestRefusals(t *testing.T) {
	e := start(t, t.TempDir())
	tests := map[string]struct {
		method, path, body string
		code               int
		want               string
	}{
		"no JSON":          {"POST", "/v1/rules", "action: Block", 400, "decoding"},
		"misspelt field":   {"POST", "/v1/rules", `{"action":"Block","macth":{}}`, 400, "macth"},
		"two rules":        {"POST", "/v1/rules", blockOfA + blockOfA, 400, "more after"},
		"huge":             {"POST", "/v1/rules", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large"},
		"no reason":        {"POST", "/v1/rules", `{"action":"Block","match":{"users":["a"]},"duration":"1h"}`, 422, "reason"},
		"bad dry run":      {"POST", "/v1/rules?dryRun=perhaps", blockOfA, 400, "perhaps"},
		"locks out all":    {"POST", "/v1/rules", `{"action":"Block","match":{"users":["*"]},"reason":"r","duration":"1h"}`, 422, "lock out"},
		"locks out repair": {"POST", "/v1/rules", `{"action":"Lockdown","reason":"r","duration":"1h"}`, 422, "lock out"},
		"lane":             {"POST", "/v1/rules", `{"action":"Block","match":{"lanes":["BreakGlass"]},"reason":"r","duration":"1h"}`, 422, "lock out"},
		"no such endpoint": {"GET", "/v2/rules", "", 404, "no such endpoint"},
		"top":              {"GET", "/v1/top?n=3&sort=seats", "", 200, `{"n":3}`},
		"top of nonsense":  {"GET", "/v1/top?sort=height", "", 400, "height"},
		"top of minus":     {"GET", "/v1/top?n=-1", "", 400, "-1"},
		"relay":            {"GET", "/v1/relay", "", 200, `{"enabled":true}`},
		"squeeze":          {"POST", "/v1/squeeze", `{"for":"5s","reason":"slow"}`, 200, "until"},
		"long squeeze":     {"POST", "/v1/squeeze", `{"for":"5m","reason":"slow"}`, 422, "30s"},
		"dry run":          {"POST", "/v1/rules?dryRun=true", blockOfA, 200, `"dryRun":true`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, body := e.call(t, tc.method, tc.path, tc.body)
			if code != tc.code || !strings.Contains(body, tc.want) {
				t.Errorf("%d %s, want %d and %q", code, body, tc.code, tc.want)
			}
		})
	}
	if rules, _ := e.rules.list(); len(rules) != 0 {
		t.Errorf("in force after refusals and dry runs: %v", rules)
	}
	for range maxRules {
		e.set(t, blockOfA)
	}
	if code, body := e.call(t, "POST", "/v1/rules", blockOfA); code != http.StatusConflict {
		t.Errorf("one rule too many: %d %s", code, body)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	e := start(t, dir)
	kept := e.set(t, blockOfA)
	e.set(t, strings.Replace(strings.Replace(blockOfA, `"a"`, `"b"`, 1), "1h", "1s", 1))
	e.stop()
	// The second expires while the gate is down: put its end into the past rather than wait.
	state := statefile.New(dir, stateName, schemaVersion)
	var s saved
	if _, err := state.Load(&s); err != nil || len(s.Rules) != 2 {
		t.Fatalf("%+v, %v", s, err)
	}
	s.Rules[1].Expires = metav1.NewTime(time.Now().Add(-time.Minute))
	if err := state.Save(s); err != nil {
		t.Fatal(err)
	}
	e = start(t, dir)
	if e.admits("a") || !e.admits("b") {
		t.Error("after the restart the wrong rules are in force")
	}
	if rules, warnings := e.rules.list(); len(rules) != 1 || rules[0].ID != kept.Rule.ID || len(warnings) > 0 {
		t.Errorf("rules %v, warnings %v", rules, warnings)
	}
	if got := fmt.Sprint(events(t, dir)); got != "[set set restore expire]" {
		t.Errorf("audited %s", got)
	}
}

func TestDamagedFilesDoNotKeepTheGateFromStarting(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{stateName, auditName} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("garbage\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, dir)
	result := e.set(t, blockOfA)
	if !result.Durable || len(result.Warnings) != 2 || e.admits("a") {
		t.Errorf("%+v: want the rule in force, saved, and a warning for each file", result)
	}
}

// brokenDisk fails all it is asked.
type brokenDisk struct{}

func (brokenDisk) Save(any) error                   { return unix.ENOSPC }
func (brokenDisk) Load(any) (statefile.Meta, error) { return statefile.Meta{}, statefile.ErrNone }
func (brokenDisk) Append(any) error                 { return unix.ENOSPC }
func (brokenDisk) Close() error                     { return nil }

func TestFullDisk(t *testing.T) {
	e := start(t, t.TempDir())
	good := e.rules.state
	e.rules.mu.Lock()
	healthy := e.rules.trail.chain
	e.rules.state, e.rules.trail.chain = brokenDisk{}, brokenDisk{}
	e.rules.trail.open = func() (auditor, error) { return nil, unix.ENOSPC }
	e.rules.mu.Unlock()
	result := e.set(t, blockOfA)
	if result.Durable || len(result.Warnings) != 2 || e.admits("a") {
		t.Errorf("%+v: want the rule in force and the answer saying that it is not durable", result)
	}
	e.rules.mu.Lock()
	e.rules.state = good
	e.rules.mu.Unlock()
	e.rules.expireNow() // tries again by itself
	if _, warnings := e.rules.list(); len(warnings) != 1 {
		t.Errorf("warnings %v, want the audit's alone: the state's disk has room again", warnings)
	}
	e.call(t, "DELETE", "/v1/rules/"+result.Rule.ID+"?reason=over", "")
	e.rules.mu.Lock()
	e.rules.trail.open = func() (auditor, error) { return healthy, nil }
	e.rules.mu.Unlock()
	e.rules.expireNow()
	if _, warnings := e.rules.list(); len(warnings) != 0 {
		t.Errorf("warnings %v, want none: what was late is in the chain", warnings)
	}
	e.set(t, blockOfA)
	if got := fmt.Sprint(events(t, e.dir)); got != "[set lift set]" {
		t.Errorf("audited %s", got)
	}
}

func TestAuditThatStaysBroken(t *testing.T) {
	broken := &trail{clock: time.Now, log: discard(), chain: brokenDisk{}}
	for i := range maxLate + 3 {
		broken.record(event{Event: "set", Ended: i})
	}
	if len(broken.late) != maxLate || broken.lost != 3 || !strings.Contains(broken.warning().Error(), fmt.Sprint(maxLate+3)) {
		t.Errorf("%d late, %d lost, warning %v", len(broken.late), broken.lost, broken.warning())
	}
	var chain memory
	broken.chain = &chain
	broken.retry()
	if len(chain) != maxLate+1 || chain[0].Lost != 3 || chain[1].Ended != 3 || chain[1].At == nil || broken.warning() != nil {
		t.Errorf("%d events, first %+v, warning %v", len(chain), chain[0], broken.warning())
	}
	broken.record(event{Event: "lift"})
	if last := chain[len(chain)-1]; last.Event != "lift" || last.At != nil {
		t.Errorf("afterwards %+v", last)
	}
}

// memory is a chain without a disk.
type memory []event

func (m *memory) Append(e any) error { *m = append(*m, e.(event)); return nil }
func (*memory) Close() error         { return nil }

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := limit.New(limit.Options{})
		r := &rules{engine: engine, clock: time.Now, log: discard(), metrics: newMetrics(nil),
			state: statefile.New(t.TempDir(), stateName, schemaVersion), changed: make(chan struct{}, 1), trail: trail{clock: time.Now, log: discard(), chain: new(memory)}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.expire(ctx); close(done) }()
		rule := v1alpha1.EmergencyRule{Action: v1alpha1.EmergencyBlock, Reason: "r", Match: v1alpha1.LimitMatch{Users: []string{"a"}}}
		e := &endpoint{engine: engine}
		for _, length := range []time.Duration{time.Minute, 90 * time.Second} {
			rule.Duration.Duration = length
			if _, err := r.set(rule, actor{name: "test"}, false); err != nil {
				t.Fatal(err)
			}
		}
		elapse(59 * time.Second)
		synctest.Wait()
		if list, _ := r.list(); len(list) != 2 || e.admits("a") {
			t.Errorf("before the end: %v", list)
		}
		elapse(time.Second)
		synctest.Wait()
		if list, _ := r.list(); len(list) != 1 || e.admits("a") {
			t.Errorf("after the first end: %v", list)
		}
		var s saved
		if _, err := r.state.Load(&s); err != nil || len(s.Rules) != 1 {
			t.Errorf("on disk: %+v, %v", s, err)
		}
		elapse(30 * time.Second)
		synctest.Wait()
		if list, _ := r.list(); len(list) != 0 || !e.admits("a") {
			t.Errorf("after the second end: %v", list)
		}
		cancel()
		<-done
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(blockOfA)
	f.Add(`{"action":"Throttle","match":{"sourceCIDRs":["::/0"]},"throttle":{"bytesPerSecond":"1Mi"},"reason":"r","duration":"1s"}`)
	f.Fuzz(func(t *testing.T, body string) {
		var rule v1alpha1.EmergencyRule
		if decode(strings.NewReader(body), &rule) != nil {
			return
		}
		rule.SetDefaults()
		if check(&rule, actor{user: "alice", groups: []string{"sre"}}) != nil {
			return
		}
		rule.ID, rule.Expires = "x", metav1.NewTime(time.Now().Add(time.Hour))
		engine := limit.New(limit.Options{})
		if _, err := engine.SetEmergency([]v1alpha1.EmergencyRule{rule}); err != nil {
			t.Fatalf("what is accepted cannot be put in force: %v", err)
		}
		lane := &flow.Request{Caller: flow.Caller{User: "alice"}, Verb: "get", Lane: flow.BreakGlass}
		if _, rejection := engine.Admit(lane, nil); rejection != nil {
			t.Fatalf("%s locks out the break-glass lane", body)
		}
	})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// elapse lets synctest's clock pass.
func elapse(d time.Duration) { <-time.After(d) }
