package agents

import (
	"fmt"
	"testing"
)

func TestAddressOf(t *testing.T) {
	seen := map[string]bool{}
	for i := range 300 {
		node := fmt.Sprintf("node-%d", i)
		address := addressOf("https://127.0.0.1:6443", node)
		if address.String() != addressOf("https://127.0.0.1:6443", node).String() {
			t.Error("a node has two addresses")
		}
		seen[address.String()] = true
	}
	if len(seen) < 299 {
		t.Errorf("300 nodes have %d addresses", len(seen))
	}
	for _, server := range []string{"https://10.0.0.1:6443", "https://[::1]:6443", "https://localhost:6443", "%"} {
		if address := addressOf(server, "node"); address != nil {
			t.Errorf("%s is reached from %s", server, address)
		}
	}
}
