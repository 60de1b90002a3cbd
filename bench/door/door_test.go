package door

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemStat(t *testing.T) {
	const text = "# Stack = 1048576 / 1048576\n# HeapInuse = 4096\n"
	for name, want := range map[string]int64{"HeapInuse": 4096, "Stack": 1 << 20, "Absent": 0} {
		if got := memStat(text, name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func TestJoin(t *testing.T) {
	dir := t.TempDir()
	one, two, both := filepath.Join(dir, "one"), filepath.Join(dir, "two"), filepath.Join(dir, "both")
	for name, text := range map[string]string{one: "certificate\n", two: "key\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := join(both, one, two); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(both); err != nil || string(got) != "certificate\nkey\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := join(both, one, filepath.Join(dir, "absent")); err == nil {
		t.Error("half a pair was joined")
	}
}
