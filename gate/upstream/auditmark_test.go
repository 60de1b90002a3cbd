package upstream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestMarkAudit(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		h := http.Header{}
		markAudit(h)
		id, err := uuid.Parse(h.Get("Audit-ID"))
		if err != nil || id.Version() != 8 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%q is no UUID of version 8: %v", h.Get("Audit-ID"), err)
		}
		if !strings.HasSuffix(id.String(), AuditMark()) || seen[id.String()] {
			t.Fatalf("%s: want a new one that ends with %s", id, AuditMark())
		}
		seen[id.String()] = true
	}
	h := http.Header{}
	h.Set("Audit-ID", "the client's own")
	if markAudit(h); h.Get("Audit-ID") != "the client's own" {
		t.Errorf("a client's own Audit-ID became %q", h.Get("Audit-ID"))
	}
}
