package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/relay"
)

func relayStatus() *relay.Status {
	s := &relay.Status{
		Taken: time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC), Since: time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC), Enabled: true,
		Memory: relay.MemoryStatus{Used: 42 << 20, Max: 512 << 20},
		Total:  relay.Sharing{Answers: 5700, UpstreamReads: 108, BytesDelivered: 93 << 30, BytesRead: 2 << 30},
		Keys: []relay.KeyStatus{
			{
				Resource: "endpointslices.discovery.k8s.io", Path: "/apis/discovery.k8s.io/v1/endpointslices", Query: "resourceVersion=0",
				MediaType: "application/vnd.kubernetes.protobuf", Encoding: "identity", WatchList: true, Readers: 2,
				Sharing: relay.Sharing{Answers: 200, UpstreamReads: 2, BytesDelivered: 80 << 20, BytesRead: 800 << 10}, AgeSeconds: new(61.2), Version: "8123",
			},
			{
				Resource: "pods", Path: "/api/v1/pods", MediaType: "application/json", Encoding: "gzip", Readers: 280, Waiting: 20,
				Sharing: relay.Sharing{Answers: 5500, UpstreamReads: 100, BytesDelivered: 92 << 30, BytesRead: 2 << 30}, AgeSeconds: new(0.84), Version: "9001",
			},
			{
				Resource: "pods", Path: "/api/v1/namespaces/a/pods", Query: "labelSelector=" + strings.Repeat("a%20in%20b%2C", 20) + "\x1b[31m",
				MediaType: "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Encoding: "identity",
			},
		},
		Watches: []relay.WatchStatus{
			{
				Resource: "pods", Path: "/api/v1/pods", MediaType: "application/json", Filtered: true, Subscribers: 300, Events: 5000,
				Delivered: 10000, RingEvents: 1000, RingBytes: 8 << 20, Oldest: "8001", Newest: "9001",
			},
			{Resource: "nodes", Path: "/api/v1/nodes", Query: "fieldSelector=metadata.name%3Dnode-1", MediaType: "application/vnd.kubernetes.protobuf;stream=watch", Subscribers: 1, Dropped: 2},
		},
		Survive:   []relay.SurviveStatus{{Resource: "services", AgeSeconds: new(12.0), Bytes: 1 << 20, Version: "8999", Serving: true}, {Resource: "nodes"}},
		Access:    relay.AccessStatus{TokenReviews: 300, TokensKnown: 5400, AccessReviews: 12, AccessKnown: 5688, Errors: 1},
		Forwarded: map[string]int64{"exact": 3, "continue": 3, "memory": 40},
	}
	s.Finish()
	return s
}

func TestGateRelay(t *testing.T) {
	status := relayStatus()
	socket := serveAdmin(t, map[string]any{"/v1/relay": status})
	for name, args := range map[string][]string{"relay.txt": nil, "relay-limited.txt": {"-n", "1"}} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, "", append([]string{"gate", "relay", "--socket", socket}, args...)...)
			if code != ExitOK || stderr != "" {
				t.Fatalf("code %d, stderr %q", code, stderr)
			}
			if strings.Contains(stdout, "\x1b") {
				t.Error("a client's control characters reach the terminal")
			}
			golden(t, name, []byte(stdout))
		})
	}
	t.Run("json", func(t *testing.T) {
		code, stdout, stderr := command(t, "", "gate", "relay", "--socket", socket, "-o", "json")
		got := &relay.Status{}
		if err := json.Unmarshal([]byte(stdout), got); code != ExitOK || err != nil {
			t.Fatalf("code %d, %v, stderr %q", code, err, stderr)
		}
		if diff := cmp.Diff(status, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestGateRelayOfAGateWithout(t *testing.T) {
	code, stdout, stderr := command(t, "", "gate", "relay", "--socket", serveAdmin(t, map[string]any{"/v1/relay": &relay.Status{}}))
	if code != ExitOK || stdout != "" || !strings.Contains(stderr, "nothing is shared") {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestGateRelayRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no gate":        {[]string{"--socket", "/nowhere/gate.sock"}, ExitFailure, "error: asking the gate at /nowhere/gate.sock: dial unix"},
		"unknown output": {[]string{"-o", "xml"}, ExitUsage, `error: output must be table or json, got "xml"`},
		"below nothing":  {[]string{"-n", "-1"}, ExitUsage, "error: limit must be ≥ 0"},
		"argument":       {[]string{"x"}, ExitUsage, "error: "},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, "", append([]string{"gate", "relay"}, test.args...)...)
			if code != test.code || stdout != "" || !strings.HasPrefix(stderr, test.want) {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}
